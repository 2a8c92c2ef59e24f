//! Policies: which paths are watched, and what of them. Text in the manner of aide.conf(5) and twpol(4).
//!
//! ```text
//! # a comment
//! binaries = p+ftype+u+g+s+b3        a group: attributes joined by + and -
//! /usr/bin binaries                  /usr/bin and all below it
//! =/tmp p+u+g                        /tmp itself, nothing below
//! !/var/log                          neither /var/log nor what is below
//! /home/*/.ssh R+diff                * ? within a name, ** across names
//! ```
//!
//! The rule with the most names wins for a path; of equals the last. Patterns are globs, where AIDE has regular
//! expressions. A path that no rule covers is not watched.

use crate::attributes::Attributes;
use crate::pattern::{Match, Pattern};

/// Bytes of a policy file.
const POLICY_BYTES_MAX: usize = 1 << 20;
/// Rules and groups of a policy.
const LINES_MAX: usize = 10_000;

/// What a policy says wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {problem}")]
pub struct PolicyError {
    /// Name of the file, as given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: PolicyProblem,
}

/// What can be wrong in a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyProblem {
    /// A name that is neither an attribute nor a group defined above.
    #[error("unknown attribute or group {name:?}")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// Two groups of the same name, or a group named like an attribute.
    #[error("group {name:?} is defined already")]
    DefinedTwice {
        /// The name.
        name: String,
    },
    /// An expression that lacks a name: `p+`, `+u`, or nothing.
    #[error("an attribute or group is missing here")]
    MissingName,
    /// A rule without attributes.
    #[error("rule for {path} has no attributes")]
    MissingAttributes {
        /// Its pattern.
        path: String,
    },
    /// Something that is neither a group nor a rule.
    #[error("neither a group (name = attributes) nor a rule (/path attributes): {text:?}")]
    NotARule {
        /// The line's first word.
        text: String,
    },
    /// Text after an exclusion or after the attributes.
    #[error("unexpected text {text:?}")]
    Trailing {
        /// The text.
        text: String,
    },
    /// More than a policy needs.
    #[error("policy is over the limit of {limit} {unit}")]
    TooLong {
        /// The limit.
        limit: usize,
        /// Lines or bytes.
        unit: &'static str,
    },
}

/// A parsed policy.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    digest: String,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: Pattern,
    scope: Scope,
}

#[derive(Debug, Clone, Copy)]
enum Scope {
    Watched(Attributes),
    OnlyItself(Attributes),
    Excluded,
}

impl Policy {
    /// Parses the text of a policy; `file` is for the error's sake.
    pub fn parse(file: &str, text: &str) -> Result<Policy, PolicyError> {
        let mut parser = Parser { file, line: 0, groups: Vec::new(), rules: Vec::new() };
        if text.len() > POLICY_BYTES_MAX {
            return Err(parser.error(1, PolicyProblem::TooLong { limit: POLICY_BYTES_MAX, unit: "bytes" }));
        }
        for line in text.lines() {
            parser.line += 1;
            if parser.line > LINES_MAX {
                return Err(parser.error(1, PolicyProblem::TooLong { limit: LINES_MAX, unit: "lines" }));
            }
            parser.parse_line(line)?;
        }
        Ok(Policy { rules: parser.rules, digest: blake3::hash(text.as_bytes()).to_string() })
    }

    /// The policy that comes with the honeynet, for a Debian decoy (`rules/fim/debian.policy`).
    pub fn debian() -> Policy {
        let text = include_str!("../../rules/fim/debian.policy");
        Policy::parse("rules/fim/debian.policy", text).expect("a test parses the policy that is built in")
    }

    /// What of this path is watched; `None` if it is not.
    pub fn attributes(&self, path: &str) -> Option<Attributes> {
        let covering = self.rules.iter().filter_map(|rule| {
            let how = rule.pattern.covers(path)?;
            match (rule.scope, how) {
                (Scope::OnlyItself(_), Match::Below) => None,
                (scope, _) => Some((rule.pattern.specificity(), scope)),
            }
        });
        // max_by_key gives the last of equals, which is the rule that we promise.
        match covering.max_by_key(|(specificity, _)| *specificity)?.1 {
            Scope::Watched(attributes) | Scope::OnlyItself(attributes) => Some(attributes),
            Scope::Excluded => None,
        }
    }

    /// blake3 of the text, hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

struct Parser<'a> {
    file: &'a str,
    line: usize,
    groups: Vec<(String, Attributes)>,
    rules: Vec<Rule>,
}

impl Parser<'_> {
    fn parse_line(&mut self, line: &str) -> Result<(), PolicyError> {
        let text = line.split_once('#').map_or(line, |(before, _)| before);
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(());
        }
        let indent = column_of(text, trimmed);
        match trimmed.as_bytes()[0] {
            b'!' => self.parse_exclusion(&trimmed[1..], indent),
            b'=' => self.parse_rule(&trimmed[1..], indent + 1, Scope::OnlyItself),
            b'/' => self.parse_rule(trimmed, indent, Scope::Watched),
            _ => self.parse_group(text, trimmed, indent),
        }
    }

    fn parse_exclusion(&mut self, text: &str, column: usize) -> Result<(), PolicyError> {
        let (path, rest) = split_word(text);
        if !rest.is_empty() {
            let problem = PolicyProblem::Trailing { text: rest.to_owned() };
            return Err(self.error(column + column_of(text, rest), problem));
        }
        self.push_rule(path, column + 1, Scope::Excluded)
    }

    fn parse_rule(
        &mut self,
        text: &str,
        column: usize,
        scope: fn(Attributes) -> Scope,
    ) -> Result<(), PolicyError> {
        let (path, rest) = split_word(text);
        if rest.is_empty() {
            let problem = PolicyProblem::MissingAttributes { path: path.to_owned() };
            return Err(self.error(column + path.chars().count(), problem));
        }
        let attributes = self.parse_expression(rest, column - 1 + column_of(text, rest))?;
        self.push_rule(path, column, scope(attributes))
    }

    fn push_rule(&mut self, path: &str, column: usize, scope: Scope) -> Result<(), PolicyError> {
        let not_a_rule = || self.error(column, PolicyProblem::NotARule { text: path.to_owned() });
        let pattern = Pattern::parse(path).ok_or_else(not_a_rule)?;
        self.rules.push(Rule { pattern, scope });
        Ok(())
    }

    fn parse_group(&mut self, line: &str, text: &str, indent: usize) -> Result<(), PolicyError> {
        let Some((name, expression)) = text.split_once('=') else {
            let (word, _) = split_word(text);
            return Err(self.error(indent, PolicyProblem::NotARule { text: word.to_owned() }));
        };
        let name = name.trim();
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') {
            return Err(self.error(indent, PolicyProblem::NotARule { text: name.to_owned() }));
        }
        if self.lookup(name).is_some() {
            return Err(self.error(indent, PolicyProblem::DefinedTwice { name: name.to_owned() }));
        }
        let attributes = self.parse_expression(expression, column_of(line, expression))?;
        self.groups.push((name.to_owned(), attributes));
        Ok(())
    }

    /// `a+b-c`, with blanks where one likes them. `column` is that of the text's first character.
    fn parse_expression(&self, text: &str, column: usize) -> Result<Attributes, PolicyError> {
        let mut all = Attributes::NONE;
        let mut rest = text;
        let mut sign = '+';
        loop {
            let end = rest.find(['+', '-']).unwrap_or(rest.len());
            let name = rest[..end].trim();
            let at = column + column_of(text, rest[..end].trim_start()) - 1;
            if name.is_empty() {
                return Err(self.error(at, PolicyProblem::MissingName));
            }
            if let (first, second) = split_word(name)
                && !second.is_empty()
            {
                let problem = PolicyProblem::Trailing { text: second.to_owned() };
                return Err(self.error(at + first.chars().count() + 1, problem));
            }
            let unknown = || self.error(at, PolicyProblem::UnknownName { name: name.to_owned() });
            let one = self.lookup(name).ok_or_else(unknown)?;
            all = if sign == '+' { all | one } else { all - one };
            let Some(next) = rest[end..].chars().next() else { return Ok(all) };
            sign = next;
            rest = &rest[end + 1..];
        }
    }

    fn lookup(&self, name: &str) -> Option<Attributes> {
        let own = self.groups.iter().find(|(known, _)| known == name).map(|(_, attributes)| *attributes);
        own.or_else(|| Attributes::named(name))
    }

    fn error(&self, column: usize, problem: PolicyProblem) -> PolicyError {
        PolicyError { file: self.file.to_owned(), line: self.line, column, problem }
    }
}

/// Column, from 1, at which `part` (a piece of `whole`) begins.
fn column_of(whole: &str, part: &str) -> usize {
    let offset = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    whole.get(..offset).map_or(1, |before| before.chars().count() + 1)
}

/// The first word, and what follows it without blanks around.
fn split_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests;
