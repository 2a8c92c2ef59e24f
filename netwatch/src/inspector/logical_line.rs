//! Logical lines of a rule file: comments and blank lines dropped, lines that end in a backslash joined, and for every byte
//! the physical line and column that it came from.

/// One directive or rule, possibly from several physical lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalLine {
    /// The text without the continuation backslashes.
    pub text: String,
    /// Offset in `text` where each physical line begins, its number from 1 and the column of its first byte.
    parts: Vec<(usize, u32, u32)>,
}

impl LogicalLine {
    /// Line and column, both from 1, of a byte offset in `text`.
    pub fn position(&self, offset: usize) -> (u32, u32) {
        let part = self.parts.iter().rev().find(|(start, _, _)| *start <= offset);
        part.map_or((0, 0), |&(start, line, column)| (line, column.saturating_add(to_u32(offset - start))))
    }
}

/// Splits the text of a file into its logical lines.
pub fn logical_lines(text: &str) -> Vec<LogicalLine> {
    let mut lines = Vec::new();
    let mut open: Option<LogicalLine> = None;
    for (index, physical) in text.lines().enumerate() {
        let trimmed = physical.trim();
        if open.is_none() && (trimmed.is_empty() || trimmed.starts_with('#')) {
            continue;
        }
        let mut line = open.take().unwrap_or(LogicalLine { text: String::new(), parts: Vec::new() });
        let indent = physical.len() - physical.trim_start().len();
        line.parts.push((line.text.len(), to_u32(index + 1), to_u32(indent + 1)));
        match trimmed.strip_suffix('\\') {
            Some(continued) => {
                line.text.push_str(continued);
                open = Some(line);
            }
            None => {
                line.text.push_str(trimmed);
                lines.push(line);
            }
        }
    }
    lines.extend(open);
    lines
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_lines_are_one_and_keep_their_positions() {
        let lines = logical_lines("# comment\n\nalert tcp \\\n  any any\nvar A b");
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].text, "alert tcp any any");
        assert_eq!(lines[0].position(0), (3, 1));
        assert_eq!(lines[0].position(10), (4, 3));
        assert_eq!(lines[1].position(4), (5, 5));
    }

    #[test]
    fn backslash_at_the_end_of_the_file_ends_the_line() {
        let lines = logical_lines("alert \\");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].text, "alert ");
    }
}
