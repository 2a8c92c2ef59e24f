//! What a domain's vcpus have of each other: which are up (VCPUOP of Xen's vcpu.h), where each has its area, its descriptor tables and
//! debug registers, and who waits for whom to leave the guest. Nothing here knows KVM.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::evtchn::Kick;
use crate::hypercall::CpuTables;
use crate::shim::{Area, Field};

/// What VCPUOP_down came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// Others are up.
    Done,
    /// It is the last one, and stays up: to Xen the domain powers off.
    Last,
}

/// Which vcpus were given registers, and which run: one bit each.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lives {
    initialised: u32,
    up: u32,
}

/// All vcpus of a domain.
pub struct Vcpus {
    areas: Vec<Area>,
    /// Each vcpu's tables: its own calls change them, and updates of a descriptor look through all. A leaf lock.
    tables: Vec<Mutex<CpuTables>>,
    /// Taken before the event channels' lock, by a registration of `vcpu_info`.
    lives: Mutex<Lives>,
    /// `lives.up`, for a look at every exit.
    up: AtomicU32,
    /// One bit a vcpu: it waits until others have flushed.
    flushing: AtomicU32,
    kick: Arc<dyn Kick>,
}

impl Vcpus {
    /// Vcpu 0 is up, the others wait to be initialised.
    pub fn new(areas: Vec<Area>, kick: Arc<dyn Kick>) -> Vcpus {
        let tables = areas.iter().map(|_| Mutex::default()).collect();
        let lives = Lives { initialised: 1, up: 1 };
        Vcpus {
            areas,
            tables,
            lives: Mutex::new(lives),
            up: AtomicU32::new(lives.up),
            flushing: AtomicU32::new(0),
            kick,
        }
    }

    /// What is saved of them beside their areas.
    pub fn save(&self) -> (Lives, Vec<CpuTables>) {
        (*self.lives(), (0..self.count()).map(|vcpu| self.tables(vcpu).clone()).collect())
    }

    /// The same again; who saved it has looked that there are as many.
    pub fn restore(areas: Vec<Area>, kick: Arc<dyn Kick>, lives: Lives, tables: &[CpuTables]) -> Vcpus {
        let vcpus = Vcpus::new(areas, kick);
        *vcpus.lives() = lives;
        vcpus.up.store(lives.up, Ordering::SeqCst);
        for (vcpu, tables) in tables.iter().enumerate().take(vcpus.count()) {
            *vcpus.tables(vcpu) = tables.clone();
        }
        vcpus
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.areas.len()
    }

    /// A number that a guest named.
    ///
    /// # Errors
    /// ENOENT: there is no such vcpu.
    pub fn number(&self, vcpu: u64) -> Result<usize, Errno> {
        usize::try_from(vcpu).ok().filter(|vcpu| *vcpu < self.count()).ok_or(Errno::ENOENT)
    }

    /// A vcpu's area.
    pub fn area(&self, vcpu: usize) -> &Area {
        &self.areas[vcpu]
    }

    /// All of them.
    pub fn areas(&self) -> &[Area] {
        &self.areas
    }

    /// A vcpu's tables.
    pub fn tables(&self, vcpu: usize) -> MutexGuard<'_, CpuTables> {
        self.tables[vcpu].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lives(&self) -> MutexGuard<'_, Lives> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does it run?
    pub fn is_up(&self, vcpu: usize) -> bool {
        self.up.load(Ordering::SeqCst) & 1 << vcpu != 0
    }

    /// Has it been given its first registers?
    pub fn is_initialised(&self, vcpu: usize) -> bool {
        self.lives().initialised & 1 << vcpu != 0
    }

    /// VCPUOP_initialise: `set` gives it its registers while nobody else can.
    ///
    /// # Errors
    /// EEXIST the second time, what `set` says.
    pub fn initialise(&self, vcpu: usize, set: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let mut lives = self.lives();
        if lives.initialised & 1 << vcpu != 0 {
            return Err(Errno::EEXIST);
        }
        set()?;
        lives.initialised |= 1 << vcpu;
        Ok(())
    }

    /// VCPUOP_up.
    ///
    /// # Errors
    /// EINVAL before it was initialised.
    pub fn up(&self, vcpu: usize) -> Result<(), Errno> {
        {
            let mut lives = self.lives();
            if lives.initialised & 1 << vcpu == 0 {
                return Err(Errno::EINVAL);
            }
            lives.up |= 1 << vcpu;
            self.up.store(lives.up, Ordering::SeqCst);
        }
        self.kick.kick(vcpu);
        Ok(())
    }

    /// VCPUOP_down: the vcpu stops before its next instruction in the guest.
    pub fn down(&self, vcpu: usize) -> Down {
        {
            let mut lives = self.lives();
            if lives.up & !(1 << vcpu) == 0 {
                return Down::Last;
            }
            lives.up &= !(1 << vcpu);
            self.up.store(lives.up, Ordering::SeqCst);
        }
        self.kick.kick(vcpu);
        Down::Done
    }

    /// Does this with a vcpu that stays down meanwhile.
    ///
    /// # Errors
    /// EINVAL if it is up, what `then` says.
    pub fn while_down<T>(&self, vcpu: usize, then: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let lives = self.lives();
        if lives.up & 1 << vcpu != 0 { Err(Errno::EINVAL) } else { then() }
    }

    /// What a vcpu must have flushed to be past everything that was asked of it until now; for each of the mask that is in the guest.
    pub fn flush_tickets(&self, mask: u64) -> Vec<(usize, u64)> {
        let asked = (0..self.count()).filter(|vcpu| mask & 1 << vcpu != 0);
        let ticket = |vcpu: usize| (vcpu, self.areas[vcpu].get(Field::FlushWanted));
        asked.map(ticket).filter(|ticket| self.must_flush(*ticket)).collect()
    }

    /// May it still use a translation from before?
    pub fn must_flush(&self, (vcpu, wanted): (usize, u64)) -> bool {
        let area = &self.areas[vcpu];
        // In the shim or the VMM it looks before it goes on. (The guest can write these words: then it waits for what never comes.)
        self.is_up(vcpu)
            && area.get(Field::InGuest) != 0
            && wanted.wrapping_sub(area.get(Field::FlushDone)).cast_signed() > 0
    }

    /// A vcpu waits for others from here to [`Vcpus::flush_end`].
    pub fn flush_begin(&self, vcpu: usize) {
        self.flushing.fetch_or(1 << vcpu, Ordering::SeqCst);
    }

    /// It waits no more.
    pub fn flush_end(&self, vcpu: usize) {
        self.flushing.fetch_and(!(1 << vcpu), Ordering::SeqCst);
    }

    /// A vcpu is to look at what was asked of it before its next instruction in the guest: those who wait for that are told.
    pub fn will_flush(&self, vcpu: usize) {
        self.areas[vcpu].set(Field::InGuest, 0);
        fence(Ordering::SeqCst);
        let waiting = self.flushing.load(Ordering::SeqCst);
        for waiter in (0..self.count()).filter(|waiter| waiting & 1 << waiter != 0 && *waiter != vcpu) {
            self.kick.kick(waiter);
        }
    }

    /// Has a flush been asked of it that it has not done?
    pub fn flush_due(&self, vcpu: usize) -> bool {
        let area = &self.areas[vcpu];
        area.get(Field::FlushWanted) != area.get(Field::FlushDone)
    }

    /// Takes a vcpu out of the guest.
    pub fn kick(&self, vcpu: usize) {
        self.kick.kick(vcpu);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Gpa, GuestMemory, Region};
    use crate::shim::{Backend, Layout, SHIM_GPA};

    #[derive(Default)]
    struct Kicked(Mutex<Vec<usize>>);

    impl Kick for Kicked {
        fn kick(&self, vcpu: usize) {
            self.0.lock().unwrap().push(vcpu);
        }
    }

    fn vcpus(count: u32) -> (Vcpus, Arc<Kicked>) {
        let layout = Layout { ram_bytes: 4 << 20, vcpus: count };
        let ram = Region::anonymous(Gpa(0), layout.ram_bytes).unwrap();
        let memory = GuestMemory::new(ram, Some(Region::anonymous(SHIM_GPA, layout.shim_bytes()).unwrap()));
        let areas = (0..count).map(|vcpu| Area::new(&memory, &layout, Backend::Pvm, vcpu).unwrap()).collect();
        let kicked = Arc::new(Kicked::default());
        (Vcpus::new(areas, kicked.clone()), kicked)
    }

    #[test]
    fn a_vcpu_is_initialised_once_and_only_then_goes_up() {
        let (vcpus, kicked) = vcpus(2);
        assert_eq!(vcpus.up(1), Err(Errno::EINVAL));
        assert_eq!(vcpus.initialise(1, || Err(Errno::EFAULT)), Err(Errno::EFAULT));
        assert!(!vcpus.is_initialised(1));
        vcpus.initialise(1, || Ok(())).unwrap();
        assert_eq!(vcpus.initialise(1, || Ok(())), Err(Errno::EEXIST));
        assert!(!vcpus.is_up(1));
        vcpus.up(1).unwrap();
        assert!(vcpus.is_up(1));
        assert_eq!(*kicked.0.lock().unwrap(), [1]);
    }

    #[test]
    fn the_last_vcpu_does_not_go_down() {
        let (vcpus, _) = vcpus(2);
        vcpus.initialise(1, || Ok(())).unwrap();
        vcpus.up(1).unwrap();
        assert_eq!(vcpus.down(0), Down::Done);
        assert_eq!(vcpus.down(1), Down::Last);
        assert!(vcpus.is_up(1) && !vcpus.is_up(0));
    }

    #[test]
    fn what_needs_a_vcpu_that_is_down_is_refused_for_one_that_is_up() {
        let (vcpus, _) = vcpus(2);
        assert_eq!(vcpus.while_down(0, || Ok(())), Err(Errno::EINVAL));
        assert_eq!(vcpus.while_down(1, || Ok(7)), Ok(7));
    }

    #[test]
    fn only_a_vcpu_that_is_in_the_guest_is_waited_for_and_only_until_it_has_flushed() {
        let (vcpus, kicked) = vcpus(3);
        vcpus.initialise(1, || Ok(())).unwrap();
        vcpus.up(1).unwrap();
        kicked.0.lock().unwrap().clear();
        vcpus.area(1).set(Field::InGuest, 1);
        vcpus.area(1).set(Field::FlushWanted, 5);
        vcpus.area(2).set(Field::FlushWanted, 5);
        let tickets = vcpus.flush_tickets(0b110);
        assert_eq!(tickets, [(1, 5)]);
        vcpus.area(1).set(Field::FlushWanted, 6);
        vcpus.area(1).set(Field::FlushDone, 5);
        assert!(!vcpus.must_flush(tickets[0]) && vcpus.flush_due(1));
        assert_eq!(vcpus.flush_tickets(0b110), [(1, 6)]);
        vcpus.flush_begin(0);
        vcpus.will_flush(1);
        assert!(!vcpus.must_flush((1, 6)));
        assert_eq!(*kicked.0.lock().unwrap(), [0]);
    }
}
