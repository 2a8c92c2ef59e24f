use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::memory::Region;

const SHARED_INFO: Gpa = Gpa(0x100_0000);
const PENDING: Gpa = Gpa(SHARED_INFO.0 + 2048);
const MASK: Gpa = Gpa(SHARED_INFO.0 + 2560);
const VCPUS: usize = 3;

#[derive(Default)]
struct Kicks(Mutex<Vec<usize>>);

impl Kick for Kicks {
    fn kick(&self, vcpu: usize) {
        self.0.lock().unwrap().push(vcpu);
    }
}

#[derive(Default)]
struct Rings(AtomicUsize);

impl Doorbell for Rings {
    fn ring(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct Domain {
    memory: GuestMemory,
    channels: EventChannels,
    kicks: Arc<Kicks>,
}

fn domain() -> Domain {
    let shim = Region::anonymous(SHARED_INFO, PAGE_SIZE).unwrap();
    let memory = GuestMemory::new(Region::anonymous(Gpa(0), 16 * PAGE_SIZE).unwrap(), Some(shim));
    let kicks = Arc::new(Kicks::default());
    let channels = EventChannels::new(memory.clone(), SHARED_INFO, VCPUS, kicks.clone()).unwrap();
    Domain { memory, channels, kicks }
}

impl Domain {
    fn kicked(&self) -> Vec<usize> {
        std::mem::take(&mut self.kicks.0.lock().unwrap())
    }

    fn word(&self, array: Gpa, port: EvtchnPort) -> u64 {
        self.memory.read_u64(array.offset(u64::from(port.0 / 64) * 8)).unwrap()
    }

    fn selector(&self, vcpu: usize) -> u64 {
        self.memory.read_u64(self.channels.vcpu_info(vcpu).offset(8)).unwrap()
    }
}

#[test]
fn an_ipi_sets_pending_selector_and_upcall_and_kicks_once() {
    let domain = domain();
    let port = domain.channels.bind_ipi(2).unwrap();
    domain.channels.send(port).unwrap();
    domain.channels.send(port).unwrap();
    assert_eq!(domain.word(PENDING, port), 1 << port.0);
    assert_eq!(domain.selector(2), 1);
    assert!(domain.channels.upcall_pending(2));
    assert!(!domain.channels.upcall_pending(0));
    assert_eq!(domain.kicked(), [2]);
}

#[test]
fn a_masked_port_becomes_pending_without_an_upcall_until_it_is_unmasked() {
    let domain = domain();
    let port = domain.channels.bind_ipi(1).unwrap();
    domain.memory.write_u64(MASK, 1 << port.0).unwrap();
    domain.channels.send(port).unwrap();
    assert!(domain.channels.is_pending(port));
    assert!(!domain.channels.upcall_pending(1));
    assert!(domain.kicked().is_empty());
    domain.channels.unmask(port).unwrap();
    assert!(domain.channels.upcall_pending(1));
    assert_eq!(domain.word(MASK, port), 0);
    assert_eq!(domain.kicked(), [1]);
    domain.channels.unmask(port).unwrap();
    assert!(domain.kicked().is_empty());
}

#[test]
fn a_poller_is_kicked_for_a_masked_port() {
    let domain = domain();
    let port = domain.channels.bind_ipi(1).unwrap();
    domain.memory.write_u64(MASK, u64::MAX).unwrap();
    domain.channels.poll_begin(1);
    domain.channels.send(port).unwrap();
    assert_eq!(domain.kicked(), [1]);
    domain.channels.poll_end(1);
    domain.channels.raise(port);
    assert!(domain.kicked().is_empty());
}

#[test]
fn a_backend_binds_is_rung_and_notifies_the_vcpu_that_the_guest_chose() {
    let domain = domain();
    let port = domain.channels.alloc_unbound(0).unwrap();
    domain.channels.send(port).unwrap();
    let rings = Arc::new(Rings::default());
    let backend = domain.channels.bind_backend(port, rings.clone()).unwrap();
    domain.channels.send(port).unwrap();
    assert_eq!(rings.0.load(SeqCst), 1);
    domain.channels.bind_vcpu(port, 1).unwrap();
    backend.notify();
    assert_eq!(domain.kicked(), [1]);
    assert_eq!(domain.channels.status(port), Ok(ChannelStatus::Interdomain { vcpu: 1, port }));
    assert!(domain.channels.bind_backend(port, rings).is_err());
    drop(backend);
    assert_eq!(domain.channels.status(port), Ok(ChannelStatus::Unbound { vcpu: 1 }));
}

#[test]
fn a_backend_cannot_raise_a_port_that_was_closed_and_taken_for_something_else() {
    let domain = domain();
    let backend = domain.channels.alloc_backend_port(Arc::new(Rings::default())).unwrap();
    let port = backend.port();
    domain.channels.close(port).unwrap();
    backend.notify();
    assert_eq!(domain.channels.bind_ipi(0).unwrap(), port);
    backend.notify();
    drop(backend);
    assert!(!domain.channels.is_pending(port));
    assert_eq!(domain.channels.status(port), Ok(ChannelStatus::Ipi { vcpu: 0 }));
}

#[test]
fn closing_clears_what_was_pending_and_frees_the_virq() {
    let domain = domain();
    let port = domain.channels.bind_virq(virq::TIMER, 1).unwrap();
    assert_eq!(domain.channels.bind_virq(virq::TIMER, 1), Err(Errno::EEXIST));
    domain.channels.raise_virq(1, virq::TIMER);
    assert!(domain.channels.is_pending(port));
    domain.channels.close(port).unwrap();
    assert!(!domain.channels.is_pending(port));
    assert_eq!(domain.channels.close(port), Err(Errno::EINVAL));
    domain.channels.raise_virq(1, virq::TIMER);
    assert!(!domain.channels.is_pending(port));
    assert_eq!(domain.channels.bind_virq(virq::TIMER, 1), Ok(port));
}

#[test]
fn lies_are_refused_as_xen_refuses_them() {
    let Domain { channels, .. } = domain();
    let virq_port = channels.bind_virq(virq::DEBUG, 0).unwrap();
    let ipi_port = channels.bind_ipi(0).unwrap();
    assert_eq!(channels.alloc_unbound(7), Err(Errno::ESRCH));
    assert_eq!(channels.bind_interdomain(0, EvtchnPort(1)), Err(Errno::EINVAL));
    assert_eq!(channels.bind_interdomain(7, EvtchnPort(1)), Err(Errno::ESRCH));
    assert_eq!(channels.bind_virq(VIRQS_MAX, 0), Err(Errno::EINVAL));
    assert_eq!(channels.bind_virq(u32::MAX, u32::MAX), Err(Errno::EINVAL));
    assert_eq!(channels.bind_virq(2, 1), Err(Errno::EINVAL));
    assert_eq!(channels.bind_virq(virq::TIMER, 3), Err(Errno::ENOENT));
    assert_eq!(channels.bind_ipi(3), Err(Errno::ENOENT));
    assert_eq!(channels.bind_vcpu(ipi_port, 1), Err(Errno::EINVAL));
    assert_eq!(channels.bind_vcpu(virq_port, 1), Err(Errno::EINVAL));
    assert_eq!(channels.bind_vcpu(virq_port, u32::MAX), Err(Errno::ENOENT));
    assert_eq!(channels.send(virq_port), Err(Errno::EINVAL));
    assert_eq!(channels.fifo(), Err(Errno::ENOSYS));
    for port in [0, 3, PORTS_MAX - 1, PORTS_MAX, u32::MAX].map(EvtchnPort) {
        assert_eq!(channels.send(port), Err(Errno::EINVAL), "{port}");
        assert_eq!(channels.close(port), Err(Errno::EINVAL), "{port}");
        assert_eq!(channels.unmask(port), Err(Errno::EINVAL), "{port}");
        assert_eq!(channels.bind_vcpu(port, 0), Err(Errno::EINVAL), "{port}");
        channels.raise(port);
        assert!(!channels.is_pending(port), "{port}");
    }
    assert_eq!(channels.status(EvtchnPort(PORTS_MAX)), Err(Errno::EINVAL));
    assert_eq!(channels.status(EvtchnPort(9)), Ok(ChannelStatus::Closed));
}

#[test]
fn ports_run_out_and_reset_gives_them_back() {
    let domain = domain();
    for _ in 1..PORTS_MAX {
        domain.channels.alloc_unbound(0).unwrap();
    }
    assert_eq!(domain.channels.alloc_unbound(0), Err(Errno::ENOSPC));
    let last = EvtchnPort(PORTS_MAX - 1);
    domain.channels.raise(last);
    assert_eq!(domain.selector(0), 1 << 63);
    domain.channels.reset().unwrap();
    assert!(!domain.channels.is_pending(last));
    assert_eq!(domain.channels.alloc_unbound(0), Ok(EvtchnPort(1)));
}

#[test]
fn a_moved_vcpu_info_keeps_what_was_pending_and_serves_from_then_on() {
    let domain = domain();
    let port = domain.channels.bind_ipi(1).unwrap();
    domain.memory.write_u8(domain.channels.vcpu_info(1).offset(1), 1).unwrap();
    domain.channels.send(port).unwrap();
    domain.kicked();
    domain.channels.set_vcpu_info(1, Gpa(0x3040)).unwrap();
    assert_eq!(domain.channels.vcpu_info(1), Gpa(0x3040));
    assert!(domain.channels.upcall_pending(1) && domain.channels.upcall_masked(1));
    assert_eq!(domain.selector(1), u64::MAX);
    assert_eq!(domain.kicked(), [1]);
    domain.memory.fill(Gpa(0x3040), 0, VCPU_INFO_BYTES).unwrap();
    domain.memory.write_u64(PENDING, 0).unwrap();
    domain.channels.send(port).unwrap();
    assert!(domain.channels.upcall_pending(1));
}

#[test]
fn a_vcpu_info_in_a_bad_place_is_refused() {
    let domain = domain();
    let before = domain.channels.vcpu_info(0);
    for place in [16 * PAGE_SIZE, PAGE_SIZE - 32, 0x1001, SHARED_INFO.0 + 64, u64::MAX - 7] {
        assert_eq!(domain.channels.set_vcpu_info(0, Gpa(place)), Err(Errno::EINVAL), "{place:#x}");
    }
    assert_eq!(domain.channels.set_vcpu_info(VCPUS, Gpa(0x1000)), Err(Errno::ENOENT));
    assert_eq!(domain.channels.vcpu_info(0), before);
    domain.channels.set_vcpu_info(0, Gpa(0x1000)).unwrap();
    assert_eq!(domain.channels.set_vcpu_info(0, Gpa(0x2000)), Err(Errno::EINVAL));
}

#[test]
fn a_domain_has_one_to_thirty_two_vcpus() {
    let memory = domain().memory;
    for vcpus in [0, VCPUS_MAX + 1] {
        assert!(EventChannels::new(memory.clone(), SHARED_INFO, vcpus, Arc::new(Kicks::default())).is_err());
    }
    assert!(EventChannels::new(memory, Gpa(0x900_0000), 1, Arc::new(Kicks::default())).is_err());
}

#[test]
fn events_raised_while_the_guest_consumes_are_not_lost() {
    const ROUNDS: usize = 20_000;
    let domain = domain();
    let port = domain.channels.bind_ipi(0).unwrap();
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                sent.store(round, SeqCst);
                domain.channels.send(port).unwrap();
            }
        });
        // The guest's side, in its order: flag, selector, pending bit. It must see every last send.
        let info = domain.channels.vcpu_info(0);
        let mut seen = 0;
        while seen < ROUNDS {
            if domain.memory.swap_u8(info, 0, SeqCst).unwrap() == 0 {
                std::hint::spin_loop();
                continue;
            }
            let selector = domain.memory.fetch_and_u64(info.offset(8), 0, SeqCst).unwrap();
            if selector != 0 && domain.memory.fetch_and_u64(PENDING, !(1 << port.0), SeqCst).unwrap() != 0 {
                seen = sent.load(SeqCst);
            }
        }
    });
}
