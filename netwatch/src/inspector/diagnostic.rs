//! What is said about a line of a rule file that cannot be read: file, line, column, one sentence.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Why a rule, variable or directive was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// The first word of a line is neither an action nor a directive.
    #[error("unknown action or directive {0:?}")]
    UnknownAction(String),
    /// The header names a protocol that is not `tcp`, `udp`, `icmp` or `ip`.
    #[error("unknown protocol {0:?}")]
    UnknownProtocol(String),
    /// The header has no `->` or `<>`.
    #[error("unknown direction {0:?}, expected -> or <>")]
    UnknownDirection(String),
    /// A part of the rule is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A variable that nobody defined.
    #[error("variable ${0} is not defined")]
    UndefinedVariable(String),
    /// An address, network or group of them does not parse.
    #[error("not an address or network: {0:?}")]
    BadAddress(String),
    /// A port, range or group of them does not parse.
    #[error("not a port or port range: {0:?}")]
    BadPort(String),
    /// Groups are nested too deeply or expand to too many members.
    #[error("list is nested too deeply or too long")]
    ListTooLarge,
    /// An option that this engine does not have.
    #[error("option {0:?} is not supported")]
    UnsupportedOption(String),
    /// The option's value does not parse.
    #[error("option {option}: {problem}: {value:?}")]
    BadOption {
        /// Name of the option.
        option: String,
        /// The value as it stands in the file.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A modifier stands before any content.
    #[error("{0} has no content before it")]
    NoContentBefore(String),
    /// The regular expression does not compile.
    #[error("pcre: {0}")]
    Pcre(String),
    /// Two rules with the same gid and sid.
    #[error("sid {gid}:{sid} is already used in {file}")]
    DuplicateSid {
        /// Generator id.
        gid: u32,
        /// Signature id.
        sid: u32,
        /// The file of the rule that came first.
        file: String,
    },
    /// The file could not be read.
    #[error("cannot read file: {0}")]
    Unreadable(String),
    /// Files include each other, or too many of them.
    #[error("include is nested deeper than {0}")]
    IncludeTooDeep(usize),
    /// A limit of the loader.
    #[error("more than {0} rules")]
    TooManyRules(usize),
}

/// A `RuleError` and where in the logical line it happened (byte offset).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorAt {
    /// Byte offset in the logical line.
    pub offset: usize,
    /// What is wrong.
    pub error: RuleError,
}

impl ErrorAt {
    /// `error` at byte `offset` of the logical line.
    pub fn new(offset: usize, error: RuleError) -> ErrorAt {
        ErrorAt { offset, error }
    }
}

/// One sentence about one place in a rule file. The rest of the file is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleDiagnostic {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 when it is about the whole file.
    pub line: u32,
    /// Column in bytes, from 1; 0 when it is about the whole file.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for RuleDiagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)
    }
}
