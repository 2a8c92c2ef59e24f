//! What a domain's CPUID says: the processor's answer less what a paravirtual guest must not use.
//!
//! The guest kernel asks by Xen's forced-emulation prefix and gets [`guest_view`]. Guest user code asks the processor itself on PVM, and
//! KVM's table (KVM_SET_CPUID2) on hardware, where both are made equal.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::shim::Backend;

/// EAX, EBX, ECX, EDX.
pub type Registers = [u32; 4];

const XEN_LEAF: u32 = 0x4000_0000;
const XEN_VERSION: u32 = 0x4000f;
/// Monitor, VMX, debug store, SMX, thermal, PDCM, PCID, DCA, x2APIC, TSC deadline; all need ring 0 or a local APIC.
const LEAF1_ECX_CLEAR: u32 = bits(&[2, 3, 5, 6, 7, 8, 15, 17, 18, 21, 24]);
/// VME, PSE, MCE, MTRR, PGE, MCA, DS, ACPI, HTT, TM, PBE, APIC. PSE made an early panic (PV-ABI), large pages are Xen's to give.
const LEAF1_EDX_CLEAR: u32 = bits(&[1, 3, 7, 9, 12, 13, 14, 21, 22, 28, 29, 31]);
const LEAF1_ECX_SET: u32 = bits(&[27, 31]); // OSXSAVE, hypervisor
/// TSC_ADJUST, SMEP, INVPCID, SMAP, RDT monitoring and allocation, processor trace.
const LEAF7_EBX_CLEAR: u32 = bits(&[1, 7, 10, 12, 15, 20, 25]);
/// UMIP, PKU, OSPKE, WAITPKG, shadow stacks, LA57, RDPID.
const LEAF7_ECX_CLEAR: u32 = bits(&[2, 3, 4, 5, 7, 16, 22]);
const LEAF7_EDX_KEEP: u32 = bits(&[4, 8]); // FSRM, AVX512_VP2INTERSECT
const LEAF7_1_EAX_KEEP: u32 = bits(&[4, 5]); // AVX-VNNI, AVX512_BF16
const XSAVE_SUPERVISOR_CLEAR: u32 = bits(&[1, 3]); // what needs XSAVES
/// SVM, extended APIC, OSVW, IBS, SKINIT, watchdog, LWP, NodeId, topology extensions, performance counters, MWAITX.
const EXT1_ECX_CLEAR: u32 = bits(&[2, 3, 9, 10, 12, 13, 15, 19, 22, 23, 24, 26, 27, 28, 29]);
/// As leaf 1, and 1 GiB pages, FFXSR, RDTSCP's TSC_AUX is the host's.
const EXT1_EDX_CLEAR: u32 = bits(&[1, 3, 7, 12, 13, 14, 25, 26, 28]);
const EXT7_EDX_KEEP: u32 = bits(&[8]); // invariant TSC
/// What hardware must still find in KVM's table for CR4 (SMEP; UMIP): the VMM runs the guest with both.
const LEAF7_EBX_FOR_CR4: u32 = bits(&[7]);
const LEAF7_ECX_FOR_CR4: u32 = bits(&[2]);

const fn bits(list: &[u32]) -> u32 {
    let (mut out, mut i) = (0, 0);
    while i < list.len() {
        out |= 1 << list[i];
        i += 1;
    }
    out
}

/// Which of a domain's processors is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its number, and so its APIC id.
    pub vcpu: u8,
    /// How many there are.
    pub vcpus: u8,
}

/// A leaf as the guest sees it, from the processor's answer.
pub fn guest_view(leaf: u32, subleaf: u32, place: Place, host: Registers) -> Registers {
    let [a, b, c, d] = host;
    match (leaf, subleaf) {
        (XEN_LEAF, _) => [
            XEN_LEAF + 2,
            u32::from_le_bytes(*b"XenV"),
            u32::from_le_bytes(*b"MMXe"),
            u32::from_le_bytes(*b"nVMM"),
        ],
        (0x4000_0001, _) => [XEN_VERSION, 0, 0, 0],
        (0x4000_0002..=0x4fff_ffff, _) => [0; 4],
        // Without HTT each vcpu is a package of its own, as Linux takes PV's vcpus to be.
        (1, _) => [
            a,
            (b & 0xffff) | u32::from(place.vcpus) << 16 | u32::from(place.vcpu) << 24,
            (c & !LEAF1_ECX_CLEAR) | (LEAF1_ECX_SET & (c | 1 << 31)),
            d & !LEAF1_EDX_CLEAR,
        ],
        (5 | 6 | 0xa | 0xb | 0x1f | 0x8000_0026, _) => [0; 4],
        (7, 0) => [a, b & !LEAF7_EBX_CLEAR, c & !LEAF7_ECX_CLEAR, d & LEAF7_EDX_KEEP],
        (7, 1) => [a & LEAF7_1_EAX_KEEP, 0, 0, 0],
        (0xd, 1) => [a & !XSAVE_SUPERVISOR_CLEAR, 0, 0, 0],
        (0xd, 8..) => [0; 4],
        (0x8000_0001, _) => [a, b, c & !EXT1_ECX_CLEAR, d & !EXT1_EDX_CLEAR],
        (0x8000_0007, _) => [0, 0, 0, d & EXT7_EDX_KEEP],
        (0x8000_0008, _) => [a, 0, 0, d],
        (0x8000_000a | 0x8000_001b | 0x8000_001e | 0x8000_001f | 0x8000_0021 | 0x8000_0022, _) => [0; 4],
        _ => host,
    }
}

/// This processor's own answer.
pub fn host(leaf: u32, subleaf: u32) -> Registers {
    let r = std::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Registers of leaves that say what a guest may execute: leaf, subleaf, register.
const FEATURE_WORDS: [(u32, u32, usize); 10] = [
    (1, 0, 2),
    (1, 0, 3),
    (7, 0, 1),
    (7, 0, 2),
    (7, 0, 3),
    (7, 1, 0),
    (0xd, 0, 0),
    (0xd, 1, 0),
    (0x8000_0001, 0, 2),
    (0x8000_0001, 0, 3),
];

/// What a guest on this processor may have come to rely on: a bit a feature, in an order that stays.
#[must_use]
pub fn features() -> [u32; FEATURE_WORDS.len()] {
    let place = Place { vcpu: 0, vcpus: 1 };
    FEATURE_WORDS
        .map(|(leaf, subleaf, register)| guest_view(leaf, subleaf, place, host(leaf, subleaf))[register])
}

/// Whether a processor with these features has all of those.
#[must_use]
pub fn has(features: &[u32], wanted: &[u32]) -> bool {
    features.len() == wanted.len() && features.iter().zip(wanted).all(|(here, wanted)| wanted & !here == 0)
}

fn filter_entry(entry: &kvm_cpuid_entry2, place: Place) -> kvm_cpuid_entry2 {
    let mut out = *entry;
    let host = [entry.eax, entry.ebx, entry.ecx, entry.edx];
    let [a, b, c, d] = guest_view(entry.function, entry.index, place, host);
    (out.eax, out.ebx, out.ecx, out.edx) = (a, b, c, d);
    if entry.function == 7 && entry.index == 0 {
        out.ebx |= entry.ebx & LEAF7_EBX_FOR_CR4;
        out.ecx |= entry.ecx & LEAF7_ECX_FOR_CR4;
    }
    out
}

/// KVM's table. On PVM user code never sees it and KVM's emulator wants it whole.
pub fn filter_for_user(supported: &CpuId, backend: Backend, place: Place) -> CpuId {
    if backend == Backend::Pvm {
        return supported.clone();
    }
    let mut filtered = supported.clone();
    filtered.as_mut_slice().iter_mut().for_each(|entry| *entry = filter_entry(entry, place));
    filtered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_its_own_features_and_no_others() {
        let here = features();
        assert!(has(&here, &here) && has(&here, &[0; 10]));
        let mut more = here;
        more[0] |= !here[0];
        assert!(!has(&here, &more));
        assert!(!has(&here, &here[1..]));
    }

    const FIRST: Place = Place { vcpu: 0, vcpus: 1 };

    #[test]
    fn the_hypervisor_leaf_names_xen() {
        let [max, b, c, d] = guest_view(XEN_LEAF, 0, FIRST, [0; 4]);
        assert_eq!(max, 0x4000_0002);
        let name: Vec<u8> = [b, c, d].iter().flat_map(|r| r.to_le_bytes()).collect();
        assert_eq!(name, b"XenVMMXenVMM");
    }

    #[test]
    fn large_pages_and_pcid_are_hidden() {
        let [_, _, c, d] = guest_view(1, 0, FIRST, [!0; 4]);
        assert_eq!((c >> 17 & 1, d >> 3 & 1), (0, 0));
    }
    #[test]
    fn each_vcpu_has_an_apic_id_of_its_own() {
        let [_, b, ..] = guest_view(1, 0, Place { vcpu: 3, vcpus: 4 }, [0, 0xffff_ffff, 0, 0]);
        assert_eq!(b, 0x0304_ffff);
    }
}
