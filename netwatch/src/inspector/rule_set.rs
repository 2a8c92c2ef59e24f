//! A set of rules from files: rules, variables, `include`, classification, event filters and suppressions. What cannot be read
//! is said with its place; the rest is loaded. This is the only file of the inspector that does I/O.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{ErrorAt, RuleDiagnostic, RuleError};
use super::header_set::AddressSet;
use super::logical_line::{LogicalLine, logical_lines};
use super::option_value::{field, named_fields, number, threshold};
use super::prefilter::Prefilter;
use super::rule::{Rule, Threshold, Track};
use super::rule_parser::{FlowbitNames, action, parse_rule};
use super::threshold::Suppression;
use super::variables::Variables;

/// Rules of one set.
const RULES_MAX: usize = 200_000;
/// Files within files.
const INCLUDE_DEPTH_MAX: usize = 8;
/// Files of one set.
const FILES_MAX: usize = 1_000;
/// Priority of a rule whose class nobody defined.
const PRIORITY_DEFAULT: u8 = 3;

/// Rules and all that belongs to them.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// In the order of the files.
    pub rules: Vec<Rule>,
    /// The search that chooses candidates among them.
    pub prefilter: Prefilter,
    /// By gid and sid.
    pub suppressions: HashMap<(u32, u32), Vec<Suppression>>,
}

impl RuleSet {
    /// Reads files and what they include.
    pub fn load(files: &[PathBuf], variables: &Variables) -> (RuleSet, Vec<RuleDiagnostic>) {
        let mut loader = Loader::new(variables);
        for file in files {
            loader.file(file, 0);
        }
        loader.finish()
    }

    /// Reads one text as if it were a file of this name; pure but for what it includes.
    pub fn parse(name: &Path, text: &str, variables: &Variables) -> (RuleSet, Vec<RuleDiagnostic>) {
        let mut loader = Loader::new(variables);
        loader.text(name, text, INCLUDE_DEPTH_MAX);
        loader.finish()
    }
}

struct Loader {
    variables: Variables,
    flowbits: FlowbitNames,
    rules: Vec<Rule>,
    places: HashMap<(u32, u32), PathBuf>,
    priorities: HashMap<String, u8>,
    filters: HashMap<(u32, u32), Threshold>,
    suppressions: HashMap<(u32, u32), Vec<Suppression>>,
    diagnostics: Vec<RuleDiagnostic>,
    files: usize,
}

impl Loader {
    fn new(variables: &Variables) -> Loader {
        Loader {
            variables: variables.clone(),
            flowbits: FlowbitNames::default(),
            rules: Vec::new(),
            places: HashMap::new(),
            priorities: HashMap::new(),
            filters: HashMap::new(),
            suppressions: HashMap::new(),
            diagnostics: Vec::new(),
            files: 0,
        }
    }

    fn file(&mut self, path: &Path, depth: usize) {
        self.files += 1;
        let read = if self.files > FILES_MAX { Ok(Vec::new()) } else { std::fs::read(path) };
        match read {
            // Old rule files have Latin-1 in their messages.
            Ok(bytes) => self.text(path, &String::from_utf8_lossy(&bytes), depth),
            Err(error) => self.diagnostics.push(RuleDiagnostic {
                file: path.to_owned(),
                line: 0,
                column: 0,
                message: RuleError::Unreadable(error.to_string()).to_string(),
            }),
        }
    }

    fn text(&mut self, path: &Path, text: &str, depth: usize) {
        for line in logical_lines(text) {
            if let Err(error) = self.line(path, &line, depth) {
                let (at, column) = line.position(error.offset);
                let message = error.error.to_string();
                self.diagnostics.push(RuleDiagnostic { file: path.to_owned(), line: at, column, message });
            }
        }
    }

    fn line(&mut self, path: &Path, line: &LogicalLine, depth: usize) -> Result<(), ErrorAt> {
        let text = line.text.as_str();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let at = text.len() - rest.len();
        match word.trim_end_matches(':') {
            "var" | "ipvar" | "portvar" => self.variable(word, rest, at),
            "include" => self.include(path, rest.trim(), at, depth),
            "config" => self.config(rest, at),
            "event_filter" | "threshold" => self.event_filter(rest, at),
            "suppress" => self.suppress(rest, at),
            word if action(word).is_some() => self.rule(path, text),
            other => Err(ErrorAt::new(0, RuleError::UnknownAction(other.to_owned()))),
        }
    }

    fn rule(&mut self, path: &Path, text: &str) -> Result<(), ErrorAt> {
        if self.rules.len() >= RULES_MAX {
            return Err(ErrorAt::new(0, RuleError::TooManyRules(RULES_MAX)));
        }
        let rule = parse_rule(text, &self.variables, &mut self.flowbits)?;
        let (gid, sid) = (rule.info.gid, rule.info.sid);
        if let Some(first) = self.places.get(&(gid, sid)) {
            let file = first.display().to_string();
            return Err(ErrorAt::new(0, RuleError::DuplicateSid { gid, sid, file }));
        }
        self.places.insert((gid, sid), path.to_owned());
        self.rules.push(rule);
        Ok(())
    }

    fn variable(&mut self, word: &str, rest: &str, at: usize) -> Result<(), ErrorAt> {
        let missing = |what| ErrorAt::new(at, RuleError::Missing(what));
        let (name, value) =
            rest.trim().split_once(char::is_whitespace).ok_or_else(|| missing("the variable's value"))?;
        let value = value.trim();
        let value_at = at + rest.find(value).unwrap_or(0);
        // A path (RULE_PATH) is no list; only ipvar and portvar say what they are.
        match word {
            "ipvar" => drop(AddressSet::parse(value, value_at, &self.variables)?),
            "portvar" => drop(super::header_set::PortSet::parse(value, value_at, &self.variables)?),
            _ => {}
        }
        self.variables.define(name, value);
        Ok(())
    }

    fn include(&mut self, path: &Path, name: &str, at: usize, depth: usize) -> Result<(), ErrorAt> {
        if depth >= INCLUDE_DEPTH_MAX {
            return Err(ErrorAt::new(at, RuleError::IncludeTooDeep(INCLUDE_DEPTH_MAX)));
        }
        let name = match name.strip_prefix('$') {
            None => name.to_owned(),
            Some(rest) => {
                let (variable, tail) = rest.split_once('/').unwrap_or((rest, ""));
                let undefined = || ErrorAt::new(at, RuleError::UndefinedVariable(variable.to_owned()));
                format!("{}/{tail}", self.variables.address(variable).ok_or_else(undefined)?)
            }
        };
        let file = path.parent().unwrap_or(Path::new("")).join(name);
        self.file(&file, depth + 1);
        Ok(())
    }

    fn config(&mut self, rest: &str, at: usize) -> Result<(), ErrorAt> {
        let (name, value) = rest.split_once(':').unwrap_or((rest, ""));
        match name.trim() {
            "classification" => {
                let fields: Vec<&str> = value.rsplitn(2, ',').map(str::trim).collect();
                let bad = |problem| {
                    let (option, value) = ("classification".to_owned(), value.trim().to_owned());
                    ErrorAt::new(at, RuleError::BadOption { option, value, problem })
                };
                let [priority, names] = fields.as_slice() else {
                    return Err(bad("expected name,description,priority"));
                };
                let (class, _) =
                    names.split_once(',').ok_or_else(|| bad("expected name,description,priority"))?;
                self.priorities.insert(class.trim().to_owned(), number(priority).map_err(bad)?);
                Ok(())
            }
            // Prefixes of references are the dashboard's to know.
            "reference" => Ok(()),
            other => Err(ErrorAt::new(at, RuleError::UnsupportedOption(format!("config {other}")))),
        }
    }

    fn event_filter(&mut self, rest: &str, at: usize) -> Result<(), ErrorAt> {
        let bad = |problem| bad_filter("event_filter", rest, at, problem);
        let key = ids(rest).map_err(bad)?;
        self.filters.insert(key, threshold(rest).map_err(bad)?);
        Ok(())
    }

    fn suppress(&mut self, rest: &str, at: usize) -> Result<(), ErrorAt> {
        let bad = |problem| bad_filter("suppress", rest, at, problem);
        let (gid, sid) = ids(rest).map_err(bad)?;
        // The list of addresses may hold commas, so it is what follows the word ip.
        let list = rest.find(" ip ").map(|index| (rest[index + 4..].trim(), at + index + 4));
        let whose = match (rest.contains("by_src"), rest.contains("by_dst"), list) {
            (false, false, None) => None,
            (true, false, Some((list, at))) => {
                Some((Track::Source, AddressSet::parse(list, at, &self.variables)?))
            }
            (false, true, Some((list, at))) => {
                Some((Track::Destination, AddressSet::parse(list, at, &self.variables)?))
            }
            _ => return Err(bad("expected track by_src or by_dst, and ip with a list")),
        };
        self.suppressions.entry((gid, sid)).or_default().push(Suppression { gid, sid, whose });
        Ok(())
    }

    fn finish(mut self) -> (RuleSet, Vec<RuleDiagnostic>) {
        for rule in &mut self.rules {
            let class = self.priorities.get(&rule.info.classtype).copied();
            let priority = rule.own_priority.or(class).unwrap_or(PRIORITY_DEFAULT);
            Arc::make_mut(&mut rule.info).priority = priority;
            let key = (rule.info.gid, rule.info.sid);
            // gen_id 1, sig_id 0 means all rules, as in Snort.
            let filter = self.filters.get(&key).or_else(|| self.filters.get(&(key.0, 0)));
            rule.threshold = filter.copied().or(rule.threshold);
        }
        let prefilter = Prefilter::new(&self.rules).unwrap_or_else(|error| {
            let message = format!("no rule is loaded: {error}");
            self.diagnostics.push(RuleDiagnostic { file: PathBuf::new(), line: 0, column: 0, message });
            self.rules.clear();
            Prefilter::default()
        });
        (RuleSet { rules: self.rules, prefilter, suppressions: self.suppressions }, self.diagnostics)
    }
}

fn ids(text: &str) -> Result<(u32, u32), &'static str> {
    let fields = named_fields(text);
    Ok((number(field(&fields, "gen_id")?)?, number(field(&fields, "sig_id")?)?))
}

fn bad_filter(option: &str, value: &str, at: usize, problem: &'static str) -> ErrorAt {
    ErrorAt::new(
        at,
        RuleError::BadOption { option: option.to_owned(), value: value.trim().to_owned(), problem },
    )
}
