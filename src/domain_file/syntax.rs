//! The syntax of xl.cfg(5): `key = value` lines, where a value is a string, a number or a list. Pure; knows no key.
//!
//! Follows the grammar of Xen's libxlu_cfg: a statement ends at a line's end or at `;`, `#` starts a comment, lists may
//! span lines and may end with a comma, strings stand in single or double quotes. Python in a domain file (xm's habit) is
//! refused, and so is `+=`.

use std::fmt;

/// A domain file is a page of text; more than this is something else.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
/// Lists in lists; xl uses one level, two are enough for all of its keys.
pub const NESTING_MAX: usize = 4;
/// Entries of one list.
pub const LIST_ENTRIES_MAX: usize = 256;
/// `key = value` statements.
pub const STATEMENTS_MAX: usize = 512;

/// Where something stands in the file, both from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A value as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `"text"` or `'text'`.
    Text(String),
    /// `128`, `0x80` or `-1`.
    Number(i64),
    /// `[ ... ]`.
    List(Vec<Located>),
}

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Position of the first character.
    pub at: Position,
    /// The value.
    pub value: Value,
}

/// One `key = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The key.
    pub key: String,
    /// Position of the key.
    pub at: Position,
    /// What it is set to.
    pub value: Located,
}

/// What is wrong with a text that is not in xl.cfg syntax.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// Too long.
    #[error("the file has {bytes} bytes, a domain file has at most {FILE_BYTES_MAX}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// Something else was needed here.
    #[error("{at}: expected {wanted}, found {found}")]
    Unexpected {
        /// Where.
        at: Position,
        /// What would have been right.
        wanted: &'static str,
        /// What stands there.
        found: String,
    },
    /// A quote is open at the line's or the file's end.
    #[error("{at}: the string that begins here has no closing {quote}")]
    OpenString {
        /// Where it begins.
        at: Position,
        /// The quote.
        quote: char,
    },
    /// A list is open at the file's end.
    #[error("{at}: the list that begins here has no closing ]")]
    OpenList {
        /// Where it begins.
        at: Position,
    },
    /// A number does not fit.
    #[error("{at}: {digits} is not a number of at most 63 bits")]
    BadNumber {
        /// Where.
        at: Position,
        /// As written.
        digits: String,
    },
    /// A named limit is passed.
    #[error("{at}: more than {limit} {what}")]
    TooMany {
        /// Where.
        at: Position,
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
}

/// The statements of a domain file, in order; a key that stands twice is there twice.
pub fn parse(text: &str) -> Result<Vec<Statement>, SyntaxError> {
    if text.len() > FILE_BYTES_MAX {
        return Err(SyntaxError::TooLong { bytes: text.len() });
    }
    let mut cursor = Cursor { rest: text, at: Position { line: 1, column: 1 } };
    let mut statements = Vec::new();
    loop {
        cursor.skip_space_and_ends();
        if cursor.peek().is_none() {
            return Ok(statements);
        }
        if statements.len() == STATEMENTS_MAX {
            return Err(SyntaxError::TooMany { at: cursor.at, limit: STATEMENTS_MAX, what: "statements" });
        }
        statements.push(statement(&mut cursor)?);
    }
}

fn statement(cursor: &mut Cursor) -> Result<Statement, SyntaxError> {
    let at = cursor.at;
    let key = cursor.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if key.is_empty() {
        return Err(cursor.unexpected("a key"));
    }
    cursor.skip_blanks();
    if cursor.peek() != Some('=') {
        return Err(cursor.unexpected("= after the key"));
    }
    cursor.bump();
    cursor.skip_blanks();
    let value = value(cursor, 0)?;
    cursor.skip_blanks();
    match cursor.peek() {
        None | Some('\n' | ';' | '#') => Ok(Statement { key, at, value }),
        Some(_) => Err(cursor.unexpected("the end of the line")),
    }
}

fn value(cursor: &mut Cursor, depth: usize) -> Result<Located, SyntaxError> {
    let at = cursor.at;
    let value = match cursor.peek() {
        Some(quote @ ('"' | '\'')) => Value::Text(string(cursor, quote)?),
        Some('[') => Value::List(list(cursor, depth)?),
        Some('0'..='9' | '-') => Value::Number(number(cursor)?),
        _ => return Err(cursor.unexpected("a string in quotes, a number or a list")),
    };
    Ok(Located { at, value })
}

fn string(cursor: &mut Cursor, quote: char) -> Result<String, SyntaxError> {
    let at = cursor.at;
    cursor.bump();
    let mut text = String::new();
    while let Some(c) = cursor.peek() {
        if c == '\n' {
            break;
        }
        cursor.bump();
        match c {
            c if c == quote => return Ok(text),
            '\\' => match cursor.peek() {
                Some(escaped @ ('\\' | '"' | '\'')) => {
                    cursor.bump();
                    text.push(escaped);
                }
                _ => text.push('\\'),
            },
            c => text.push(c),
        }
    }
    Err(SyntaxError::OpenString { at, quote })
}

fn list(cursor: &mut Cursor, depth: usize) -> Result<Vec<Located>, SyntaxError> {
    let at = cursor.at;
    if depth == NESTING_MAX {
        return Err(SyntaxError::TooMany { at, limit: NESTING_MAX, what: "lists inside each other" });
    }
    cursor.bump();
    let mut entries = Vec::new();
    loop {
        cursor.skip_space();
        match cursor.peek() {
            None => return Err(SyntaxError::OpenList { at }),
            Some(']') => break,
            Some(_) if entries.len() == LIST_ENTRIES_MAX => {
                return Err(SyntaxError::TooMany {
                    at: cursor.at,
                    limit: LIST_ENTRIES_MAX,
                    what: "entries in a list",
                });
            }
            Some(_) => entries.push(value(cursor, depth + 1)?),
        }
        cursor.skip_space();
        match cursor.peek() {
            None => return Err(SyntaxError::OpenList { at }),
            Some(',') => cursor.bump(),
            Some(']') => break,
            Some(_) => return Err(cursor.unexpected(", or ] in the list")),
        }
    }
    cursor.bump();
    Ok(entries)
}

fn number(cursor: &mut Cursor) -> Result<i64, SyntaxError> {
    let at = cursor.at;
    let digits = cursor.take_while(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    let (sign, magnitude) = match digits.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, digits.as_str()),
    };
    let parsed = match magnitude.strip_prefix("0x") {
        Some(hex) if !hex.starts_with(['-', '+']) => i64::from_str_radix(hex, 16),
        Some(_) => return Err(SyntaxError::BadNumber { at, digits }),
        None if magnitude.starts_with(['-', '+']) => return Err(SyntaxError::BadNumber { at, digits }),
        None => magnitude.parse(),
    };
    parsed.map(|n| n * sign).map_err(|_| SyntaxError::BadNumber { at, digits })
}

struct Cursor<'a> {
    rest: &'a str,
    at: Position,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) {
        let mut chars = self.rest.chars();
        match chars.next() {
            Some('\n') => self.at = Position { line: self.at.line + 1, column: 1 },
            Some(_) => self.at.column += 1,
            None => {}
        }
        self.rest = chars.as_str();
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(c) = self.peek().filter(|c| wanted(*c)) {
            taken.push(c);
            self.bump();
        }
        taken
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|c| c != '\n' && c.is_whitespace()) {
            self.bump();
        }
    }

    fn skip_space(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.bump();
                    }
                }
                c if c.is_whitespace() => self.bump(),
                _ => return,
            }
        }
    }

    fn skip_space_and_ends(&mut self) {
        self.skip_space();
        while self.peek() == Some(';') {
            self.bump();
            self.skip_space();
        }
    }

    fn unexpected(&self, wanted: &'static str) -> SyntaxError {
        let found = match self.peek() {
            None => "the end of the file".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(c) => format!("{c:?}"),
        };
        SyntaxError::Unexpected { at: self.at, wanted, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, error: &str) {
        assert_eq!(parse(text).unwrap_err().to_string(), error, "of {text:?}");
    }

    #[test]
    fn every_error_names_its_line_and_column() {
        check("name", "line 1, column 5: expected = after the key, found the end of the file");
        check(
            "a = 1\nname = ",
            "line 2, column 8: expected a string in quotes, a number or a list, found the end of the file",
        );
        check("name = \"x", "line 1, column 8: the string that begins here has no closing \"");
        check("name = 'x\ny'", "line 1, column 8: the string that begins here has no closing '");
        check("vif = [ '', \n", "line 1, column 7: the list that begins here has no closing ]");
        check("vif = [ '' '' ]", "line 1, column 12: expected , or ] in the list, found '\\''");
        check("memory = 12x", "line 1, column 10: 12x is not a number of at most 63 bits");
        check(
            "memory = 99999999999999999999",
            "line 1, column 10: 99999999999999999999 is not a number of at most 63 bits",
        );
        check("memory = 1 2", "line 1, column 12: expected the end of the line, found '2'");
        check("= 1", "line 1, column 1: expected a key, found '='");
        check("x = true", "line 1, column 5: expected a string in quotes, a number or a list, found 't'");
        check("x += 1", "line 1, column 3: expected = after the key, found '+'");
        check("x = [[[[[1]]]]]", "line 1, column 9: more than 4 lists inside each other");
        check("x = --1", "line 1, column 5: --1 is not a number of at most 63 bits");
    }

    #[test]
    fn limits_hold() {
        let long = " ".repeat(FILE_BYTES_MAX + 1);
        assert!(matches!(parse(&long), Err(SyntaxError::TooLong { .. })));
        let many = "a=1\n".repeat(STATEMENTS_MAX + 1);
        assert!(matches!(parse(&many), Err(SyntaxError::TooMany { .. })));
        let list = format!("a=[{}]", "1,".repeat(LIST_ENTRIES_MAX + 1));
        assert!(matches!(parse(&list), Err(SyntaxError::TooMany { .. })));
    }

    #[test]
    fn strings_numbers_lists_comments_and_semicolons_are_read() {
        let text = "a = 'it''' # not this\n".replace("''' #", "' #");
        assert_eq!(parse(&text).unwrap()[0].value.value, Value::Text("it".into()));
        let read = parse("a=0x80; b = -3;\n# c\nd = [\n 'x', # y\n [1,],\n]\ne='a\\'b\\c'").unwrap();
        let values: Vec<_> = read.into_iter().map(|s| (s.key, s.value.value)).collect();
        assert_eq!(values[0], ("a".into(), Value::Number(128)));
        assert_eq!(values[1], ("b".into(), Value::Number(-3)));
        let Value::List(list) = &values[2].1 else { panic!("a list") };
        assert_eq!(list[0].value, Value::Text("x".into()));
        assert!(matches!(&list[1].value, Value::List(inner) if inner.len() == 1));
        assert_eq!(list[0].at, Position { line: 4, column: 2 });
        assert_eq!(values[3], ("e".into(), Value::Text("a'b\\c".into())));
    }
}
