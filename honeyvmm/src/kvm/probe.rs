//! Which backend is this KVM? Asked of the machine itself: does SYSCALL from ring 3 arrive in ring 0, or still in ring 3 (PVM)?

use std::os::fd::RawFd;

use kvm_bindings::{Msrs, kvm_regs};
use kvm_ioctls::VcpuExit;

use super::cpu_state::{
    CodeSegment, Cr4Features, Tables, set_code_segment, set_system_registers, syscall_msrs,
};
use super::vm::{KvmError, Vm, ioctl};
use crate::memory::{Access, Gpa, GuestMemory, Region};
use crate::shim::Backend;

const BYTES: u64 = 2 << 20;
const CODE: u64 = 0x1000;
const TARGET: u64 = 0x1100;
const L4: u64 = 0x2000;
const L3: u64 = 0x3000;
const L2: u64 = 0x4000;
const GDT: u64 = 0x10000;
const PORT: u16 = 0x10;
/// IOPL 3, so that the port access leaves the guest from either ring.
const RFLAGS_IOPL3: u64 = 0x3002;

fn program(memory: &Region) -> Result<(), crate::memory::MemoryError> {
    memory.write(Gpa(CODE), &[0x0f, 0x05])?; // syscall
    memory.write(Gpa(TARGET), &[0x8c, 0xc8, 0xe6, PORT as u8])?; // mov %cs,%eax; out %al,$PORT
    memory.write_u64(Gpa(L4), L3 | 7)?;
    memory.write_u64(Gpa(L3), L2 | 7)?;
    memory.write_u64(Gpa(L2), 0xe7)?; // 2 MiB, user
    for (selector, descriptor) in [
        (0x20, 0x00cf_fb00_0000_ffff_u64),
        (0x28, 0x00cf_f300_0000_ffff),
        (0x30, 0x00af_fb00_0000_ffff),
        (0xe008, 0x00af_9b00_0000_ffff),
        (0xe010, 0x00cf_9300_0000_ffff),
    ] {
        memory.write_u64(Gpa(GDT + selector), descriptor)?;
    }
    Ok(())
}

/// Runs two instructions in a machine of its own and looks at CS.
pub fn probe(kvm_fd: RawFd) -> Result<Backend, KvmError> {
    let refused = |e: crate::memory::MemoryError| KvmError::Probe(e.to_string());
    let region = Region::anonymous(Gpa(0), BYTES).map_err(refused)?;
    program(&region).map_err(refused)?;
    let vm = Vm::new(kvm_fd, &GuestMemory::from(region))?;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut sregs = ioctl("tell its special registers", vcpu.get_sregs())?;
    let features = Cr4Features { leaf7_ebx: 0, leaf7_ecx: 0, leaf1_ecx: 0 };
    set_system_registers(&mut sregs, Backend::Pvm, Tables { gdt: GDT, idt: 0, tss: 0 }, features, L4);
    set_code_segment(&mut sregs, CodeSegment::Ring3);
    ioctl("set the special registers", vcpu.set_sregs(&sregs))?;
    let mut msrs = syscall_msrs(Backend::Pvm, TARGET);
    // The mask would clear IOPL, and the port access would fault.
    msrs[3].data = 0;
    let msrs = Msrs::from_entries(&msrs).map_err(|e| KvmError::Probe(format!("{e:?}")))?;
    ioctl("set the model-specific registers", vcpu.set_msrs(&msrs))?;
    let regs = kvm_regs { rip: CODE, rflags: RFLAGS_IOPL3, ..Default::default() };
    ioctl("set the registers", vcpu.set_regs(&regs))?;
    match vcpu.run() {
        Ok(VcpuExit::IoOut(PORT, &[cs])) => Ok(if cs & 3 == 3 { Backend::Pvm } else { Backend::Hardware }),
        Ok(other) => Err(KvmError::Probe(format!("{other:?}"))),
        Err(source) => Err(KvmError::Ioctl { what: "run the probe", source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_kvm_has_a_backend() {
        let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").unwrap();
        probe(std::os::fd::AsRawFd::as_raw_fd(&kvm)).unwrap();
    }
}
