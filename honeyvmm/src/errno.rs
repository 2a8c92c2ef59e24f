//! Xen's error numbers (`xen/errno.h`): what a refused hypercall returns, negated.

use std::fmt;

/// One error number, positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub u16);

impl Errno {
    /// Operation not permitted.
    pub const EPERM: Self = Self(1);
    /// No such entry (vcpu, node).
    pub const ENOENT: Self = Self(2);
    /// No such domain.
    pub const ESRCH: Self = Self(3);
    /// Too much.
    pub const E2BIG: Self = Self(7);
    /// No memory.
    pub const ENOMEM: Self = Self(12);
    /// Not allowed.
    pub const EACCES: Self = Self(13);
    /// A pointer of the guest is bad.
    pub const EFAULT: Self = Self(14);
    /// In use.
    pub const EBUSY: Self = Self(16);
    /// It is there already.
    pub const EEXIST: Self = Self(17);
    /// An argument makes no sense.
    pub const EINVAL: Self = Self(22);
    /// A table is full.
    pub const ENOSPC: Self = Self(28);
    /// No such call.
    pub const ENOSYS: Self = Self(38);

    /// What the guest finds in its return register.
    #[must_use]
    pub fn hypercall_result(self) -> i64 {
        -i64::from(self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xen error {}", self.0)
    }
}

impl std::error::Error for Errno {}
