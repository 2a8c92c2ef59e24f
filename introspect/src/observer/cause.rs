//! Which session a finding is put down to: that of its process; else the only one that lived since it can have come about.

use crate::session::Sessions;

/// Who lived in an interval.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Seen {
    #[default]
    Nobody,
    One(String),
    Several,
}

impl Seen {
    fn with(self, id: &str) -> Seen {
        match self {
            Seen::Nobody => Seen::One(id.to_owned()),
            Seen::One(known) if known == id => Seen::One(known),
            Seen::One(_) | Seen::Several => Seen::Several,
        }
    }
}

/// Sessions that lived since the last look, and in the interval before: what counts only if it is seen twice was done then.
#[derive(Debug, Default)]
pub struct Lived {
    now: Seen,
    before: Seen,
}

impl Lived {
    /// These live.
    pub fn see<'a>(&mut self, ids: impl Iterator<Item = &'a str>) {
        self.now = ids.fold(std::mem::take(&mut self.now), Seen::with);
    }

    /// A look is over.
    pub fn looked(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// The session that a finding of this process, if it has one, is put down to.
    pub fn cause(&self, pid: Option<u32>, sessions: &Sessions) -> Option<String> {
        let own = pid.and_then(|pid| sessions.of_process(pid)).map(str::to_owned);
        own.or_else(|| self.only())
    }

    fn only(&self) -> Option<String> {
        let all = match &self.now {
            Seen::One(id) => self.before.clone().with(id),
            Seen::Nobody => self.before.clone(),
            Seen::Several => Seen::Several,
        };
        match all {
            Seen::One(id) => Some(id),
            Seen::Nobody | Seen::Several => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lived(before: &[&str], now: &[&str]) -> Option<String> {
        let mut lived = Lived::default();
        lived.see(before.iter().copied());
        lived.looked();
        now.iter().for_each(|id| lived.see(std::iter::once(*id)));
        lived.only()
    }

    #[test]
    fn the_only_one_that_lived_is_the_cause() {
        for (before, now, only) in [
            (&[][..], &[][..], None),
            (&["a"], &[], Some("a")),
            (&[], &["a", "a"], Some("a")),
            (&["a"], &["a"], Some("a")),
            (&["a"], &["b"], None),
            (&[], &["a", "b"], None),
            (&["a", "b"], &["a"], None),
        ] {
            assert_eq!(lived(before, now).as_deref(), only, "{before:?} {now:?}");
        }
    }
}
