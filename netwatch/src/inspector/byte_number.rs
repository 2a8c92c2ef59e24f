//! Numbers in the payload: `byte_test` and `byte_jump` (Snort 2.9 manual, 3.5.31 and 3.5.32).

use super::rule::{ByteJump, ByteTest, Comparison, NumberAt, NumberForm};

/// Reads the number; gives its value and the position behind it.
fn read(number: &NumberAt, data: &[u8], from: usize) -> Option<(u64, usize)> {
    let start = usize::try_from(i64::try_from(from).ok()?.checked_add(number.offset)?).ok()?;
    let end = start.checked_add(number.count)?;
    let bytes = data.get(start..end)?;
    let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    match number.form {
        NumberForm::BigEndian => Some((bytes.iter().fold(0, join), end)),
        NumberForm::LittleEndian => Some((bytes.iter().rev().fold(0, join), end)),
        NumberForm::Text(radix) => text_number(bytes, radix).map(|(value, used)| (value, start + used)),
    }
}

/// Reads a number as C's `strtoul` does: white space, sign and prefix, then as many digits as there are.
fn text_number(bytes: &[u8], radix: u32) -> Option<(u64, usize)> {
    let mut at = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let prefix = bytes.get(at..at + 2).is_some_and(|two| two.eq_ignore_ascii_case(b"0x"));
    let radix = match (radix, prefix) {
        (0, true) => 16,
        (0, false) if bytes.get(at) == Some(&b'0') => 8,
        (0, false) => 10,
        (radix, _) => radix,
    };
    if prefix && radix == 16 {
        at += 2;
    }
    let digits = bytes[at..].iter().map_while(|byte| (*byte as char).to_digit(radix));
    let (value, count) = digits.fold((0_u64, 0), |(value, count), digit| {
        (value.wrapping_mul(u64::from(radix)).wrapping_add(u64::from(digit)), count + 1)
    });
    if count == 0 { None } else { Some((value, at + count)) }
}

/// Whether the number is there and compares as wanted. `from` is the cursor or 0.
pub fn byte_test(test: &ByteTest, data: &[u8], from: usize) -> bool {
    let Some((value, _)) = read(&test.number, data, from) else { return false };
    let matched = match test.comparison {
        Comparison::Less => value < test.value,
        Comparison::LessOrEqual => value <= test.value,
        Comparison::Equal => value == test.value,
        Comparison::Greater => value > test.value,
        Comparison::GreaterOrEqual => value >= test.value,
        Comparison::And => value & test.value != 0,
        Comparison::Xor => value ^ test.value != 0,
    };
    matched != test.negated
}

/// Where the cursor goes, if the number is there and the place is in the buffer (its end included).
pub fn byte_jump(jump: &ByteJump, data: &[u8], from: usize) -> Option<usize> {
    let (value, behind) = read(&jump.number, data, from)?;
    let mut distance = value.checked_mul(u64::from(jump.multiplier))?;
    if jump.align {
        distance = distance.checked_next_multiple_of(4)?;
    }
    let origin = if jump.from_beginning { 0 } else { behind };
    let target = i64::try_from(distance)
        .ok()?
        .checked_add(i64::try_from(origin).ok()?)?
        .checked_add(jump.post_offset)?;
    usize::try_from(target).ok().filter(|target| *target <= data.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_as_strtoul_does() {
        for (text, radix, expected) in [
            ("123", 10, Some((123, 3))),
            (" 12x", 10, Some((12, 3))),
            ("0x1f", 0, Some((31, 4))),
            ("017", 0, Some((15, 3))),
            ("1f", 16, Some((31, 2))),
            ("", 10, None),
            ("x", 10, None),
        ] {
            assert_eq!(text_number(text.as_bytes(), radix), expected, "{text}");
        }
    }
}
