//! What may stand in text at a place that Linux patches while it runs (`arch/x86/kernel/{jump_label,static_call,ftrace,alternative}.c`).

use std::collections::BTreeSet;
use std::ops::Range;

/// A call or a jump with a distance of four bytes.
pub const CALL_BYTES: u64 = 5;
/// A jump with a distance of one byte.
pub const JUMP_SHORT_BYTES: u64 = 2;

const NOP2: [u8; 2] = [0x66, 0x90];
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
/// `xor %eax, %eax` with prefixes: a static call that returns 0.
const XOR5: [u8; 5] = [0x2e, 0x2e, 0x2e, 0x31, 0xc0];
/// A return, and what is never reached.
const RETURN5: [u8; 5] = [0xc3, 0xcc, 0xcc, 0xcc, 0xcc];
const CALL: u8 = 0xe8;
const JUMP: u8 = 0xe9;
const JUMP_SHORT: u8 = 0xeb;
/// `text_poke_bp` puts it there first, then the rest, then the first byte.
const BREAKPOINT: u8 = 0xcc;
/// A prefix that does nothing, in the place of `lock` where there is one processor.
const NO_LOCK: u8 = 0x3e;
const LOCK: u8 = 0xf0;

/// What patches a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A static key: a jump, or none.
    Jump {
        /// Where it leads.
        target: u64,
    },
    /// A static call or its trampoline: to some function, or nothing, or 0.
    StaticCall,
    /// The begin of a function that ftrace may call from.
    Tracer,
    /// ftrace's own call of a tracer.
    TracerCall,
    /// A `lock` prefix.
    Lock,
}

/// What stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One of the forms that it may have.
    Legal,
    /// A breakpoint: on the way from one to the other, or somebody's.
    Between,
    /// Something else.
    Illegal,
}

/// Where calls may lead at this moment.
pub struct Targets<'a> {
    /// Whether a function of the kernel's begins here.
    pub is_function: &'a dyn Fn(u64) -> bool,
    /// ftrace's entries, `ftrace_caller` and its like.
    pub tracer_entries: &'a [u64],
    /// Trampolines of tracers that are in ftrace's list.
    pub trampolines: &'a [Range<u64>],
    /// Functions of tracers that are in ftrace's list.
    pub tracers: &'a BTreeSet<u64>,
}

impl Kind {
    /// Judges the bytes of a place of this kind at this address.
    #[must_use]
    pub fn judge(self, at: u64, bytes: &[u8], targets: &Targets<'_>) -> Form {
        let is_legal = match self {
            Self::Jump { target } => bytes == NOP2 || bytes == NOP5 || destination(at, bytes) == Some(target),
            Self::StaticCall => {
                [NOP5, XOR5, RETURN5].iter().any(|form| bytes.starts_with(form))
                    || destination(at, bytes).is_some_and(targets.is_function)
            }
            Self::Tracer => {
                let is_tracer = |to| {
                    targets.tracer_entries.contains(&to)
                        || targets.trampolines.iter().any(|range| range.contains(&to))
                };
                bytes == NOP5
                    || (bytes.first() == Some(&CALL) && destination(at, bytes).is_some_and(is_tracer))
            }
            Self::TracerCall => {
                let is_known = |to| (targets.is_function)(to) || targets.tracers.contains(&to);
                bytes == NOP5 || destination(at, bytes).is_some_and(is_known)
            }
            Self::Lock => matches!(bytes, [LOCK | NO_LOCK]),
        };
        match (is_legal, bytes.first()) {
            (true, _) => Form::Legal,
            (false, Some(&BREAKPOINT)) => Form::Between,
            (false, _) => Form::Illegal,
        }
    }
}

/// Where a call or jump leads.
fn destination(at: u64, bytes: &[u8]) -> Option<u64> {
    let near = |length: u64, distance: &[u8]| {
        let distance = i32::from_le_bytes(*distance.first_chunk()?);
        Some(at.wrapping_add(length).wrapping_add_signed(distance.into()))
    };
    match bytes {
        [JUMP_SHORT, distance] => {
            Some(at.wrapping_add(JUMP_SHORT_BYTES).wrapping_add_signed(distance.cast_signed().into()))
        }
        [CALL | JUMP, distance @ ..] => near(CALL_BYTES, distance),
        [0x0f, 0x80..=0x8f, distance @ ..] => near(CALL_BYTES + 1, distance),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0xffff_ffff_8100_0000;

    #[track_caller]
    fn check(kind: Kind, bytes: &[u8], expected: Form) {
        let tracers = BTreeSet::from([AT + 0x5000]);
        let targets = Targets {
            is_function: &|at| at == AT + 0x105,
            tracer_entries: &[AT + 0x205],
            trampolines: std::slice::from_ref(&(AT + 0x305..AT + 0x400)),
            tracers: &tracers,
        };
        assert_eq!(kind.judge(AT, bytes, &targets), expected, "{kind:?} {bytes:x?}");
    }

    #[test]
    fn a_static_key_jumps_to_its_target_or_not_at_all() {
        let key = Kind::Jump { target: AT + 0x25 };
        check(key, &NOP2, Form::Legal);
        check(key, &NOP5, Form::Legal);
        check(key, &[0xeb, 0x23], Form::Legal);
        check(key, &[0xe9, 0x20, 0, 0, 0], Form::Legal);
        check(key, &[0xe9, 0x21, 0, 0, 0], Form::Illegal);
        check(key, &[0xcc, 0x20, 0, 0, 0], Form::Between);
        check(key, &[0x90; 5], Form::Illegal);
    }

    #[test]
    fn a_static_call_leads_to_a_function_of_the_kernel() {
        check(Kind::StaticCall, &[0xe8, 0, 1, 0, 0], Form::Legal);
        check(Kind::StaticCall, &[0x0f, 0x85, 0xff, 0, 0, 0], Form::Legal);
        check(Kind::StaticCall, &[0xe8, 1, 1, 0, 0], Form::Illegal);
        check(Kind::StaticCall, &XOR5, Form::Legal);
        check(Kind::StaticCall, &RETURN5, Form::Legal);
    }

    #[test]
    fn a_function_begins_with_nothing_or_with_a_call_of_ftrace() {
        check(Kind::Tracer, &NOP5, Form::Legal);
        check(Kind::Tracer, &[0xe8, 0, 2, 0, 0], Form::Legal);
        check(Kind::Tracer, &[0xe8, 0, 3, 0, 0], Form::Legal);
        check(Kind::Tracer, &[0xe9, 0, 2, 0, 0], Form::Illegal);
        check(Kind::Tracer, &[0xe8, 0, 1, 0, 0], Form::Illegal);
        check(Kind::TracerCall, &[0xe8, 0xfb, 0x4f, 0, 0], Form::Legal);
    }

    #[test]
    fn a_lock_is_there_or_not() {
        check(Kind::Lock, &[0xf0], Form::Legal);
        check(Kind::Lock, &[0x3e], Form::Legal);
        check(Kind::Lock, &[0x90], Form::Illegal);
        check(Kind::Lock, &[], Form::Illegal);
    }
}
