//! The options of a rule: one dispatch by name, what each gives the rule, and what they must have together.

use super::content::{Content, parse_literal};
use super::diagnostic::{ErrorAt, RuleError};
use super::option_value::{self as value, Problem};
use super::pcre::Pcre;
use super::rule::{Buffer, Detection, FlowTest, Flowbit, HeaderTest, Reference, RuleInfo, Threshold};
use super::rule_parser::{FlowbitNames, OptionText};

/// What the options of one rule amount to.
pub struct RuleParts {
    pub info: RuleInfo,
    pub priority: Option<u8>,
    pub flow: FlowTest,
    pub tests: Vec<HeaderTest>,
    pub detections: Vec<Detection>,
    pub flowbits: Vec<Flowbit>,
    pub no_alert: bool,
    pub detection_filter: Option<Threshold>,
    pub threshold: Option<Threshold>,
}

/// Takes options one by one.
pub struct RuleBuilder<'a> {
    parts: RuleParts,
    sid: Option<u32>,
    names: &'a mut FlowbitNames,
}

impl<'a> RuleBuilder<'a> {
    /// A rule without options; flowbits get their numbers from `names`.
    pub fn new(names: &'a mut FlowbitNames) -> RuleBuilder<'a> {
        let info = RuleInfo {
            gid: 1,
            sid: 0,
            rev: 0,
            msg: String::new(),
            classtype: String::new(),
            priority: 0,
            references: Vec::new(),
            metadata: Vec::new(),
        };
        let parts = RuleParts {
            info,
            priority: None,
            flow: FlowTest::default(),
            tests: Vec::new(),
            detections: Vec::new(),
            flowbits: Vec::new(),
            no_alert: false,
            detection_filter: None,
            threshold: None,
        };
        RuleBuilder { parts, sid: None, names }
    }

    /// Takes one option.
    pub fn add(&mut self, option: OptionText<'_>) -> Result<(), ErrorAt> {
        self.dispatch(&option).map_err(|refusal| match refusal {
            Refusal::Value(problem) => ErrorAt::new(
                option.value_at,
                RuleError::BadOption { option: option.name.into(), value: option.value.into(), problem },
            ),
            Refusal::Unsupported => ErrorAt::new(option.at, RuleError::UnsupportedOption(option.name.into())),
            Refusal::NoContent => ErrorAt::new(option.at, RuleError::NoContentBefore(option.name.into())),
            Refusal::Pcre(message) => ErrorAt::new(option.value_at, RuleError::Pcre(message)),
        })
    }

    /// All options are taken; `at` is where to point when one is missing.
    pub fn finish(mut self, at: usize) -> Result<RuleParts, ErrorAt> {
        self.parts.info.sid = self.sid.ok_or_else(|| ErrorAt::new(at, RuleError::Missing("sid")))?;
        Ok(self.parts)
    }

    fn dispatch(&mut self, option: &OptionText<'_>) -> Result<(), Refusal> {
        let text = option.value;
        match option.name {
            "msg" => self.parts.info.msg = value::unescape(value::unquote(text)),
            "sid" => self.sid = Some(value::number(text)?),
            "gid" => self.parts.info.gid = value::number(text)?,
            "rev" => self.parts.info.rev = value::number(text)?,
            "classtype" => self.parts.info.classtype = text.to_owned(),
            "priority" => self.parts.priority = Some(value::number(text)?),
            "reference" => self.parts.info.references.push(reference(text)?),
            "metadata" => self.parts.info.metadata.extend(text.split(',').map(|item| item.trim().to_owned())),
            "flow" => self.parts.flow = value::flow(text)?,
            "flowbits" => self.flowbits(text)?,
            "detection_filter" => self.parts.detection_filter = Some(value::detection_filter(text)?),
            "threshold" => self.parts.threshold = Some(value::threshold(text)?),
            "content" => self.content(text, Buffer::Payload)?,
            "uricontent" => self.content(text, Buffer::HttpUri)?,
            "pcre" => {
                let pcre = Pcre::parse(value::unquote(text)).map_err(Refusal::Pcre)?;
                self.parts.detections.push(Detection::Pcre(pcre));
            }
            "isdataat" => self.parts.detections.push(Detection::IsDataAt(value::is_data_at(text)?)),
            "byte_test" => self.parts.detections.push(Detection::ByteTest(value::byte_test(text)?)),
            "byte_jump" => self.parts.detections.push(Detection::ByteJump(value::byte_jump(text)?)),
            name => return self.modifier(name, text),
        }
        Ok(())
    }

    fn modifier(&mut self, name: &str, text: &str) -> Result<(), Refusal> {
        if let Some(test) = value::header_test(name, text) {
            self.parts.tests.push(test?);
            return Ok(());
        }
        if !value::is_content_modifier(name) {
            return Err(Refusal::Unsupported);
        }
        let Some(Detection::Content(content)) = self
            .parts
            .detections
            .iter_mut()
            .rev()
            .find(|detection| matches!(detection, Detection::Content(_)))
        else {
            return Err(Refusal::NoContent);
        };
        modify(content, name, text).map_err(Refusal::Value)
    }

    fn content(&mut self, text: &str, buffer: Buffer) -> Result<(), Refusal> {
        let (negated, text) = value::negation(text);
        let (literal, modifiers) = value::quoted(text)?;
        let mut content = Content::new(parse_literal(literal)?, negated, buffer);
        // Snort also takes the modifiers behind a comma: content:"x", nocase, depth 5.
        for modifier in modifiers.split(',').map(str::trim).filter(|modifier| !modifier.is_empty()) {
            let (name, text) = modifier.split_once(char::is_whitespace).unwrap_or((modifier, ""));
            modify(&mut content, name, text.trim())?;
        }
        self.parts.detections.push(Detection::Content(content));
        Ok(())
    }

    fn flowbits(&mut self, text: &str) -> Result<(), Refusal> {
        let mut words = text.split(',').map(str::trim);
        let operation = words.next().unwrap_or_default();
        let make = match operation {
            "noalert" => {
                self.parts.no_alert = true;
                return Ok(());
            }
            "set" => Flowbit::Set,
            "unset" => Flowbit::Unset,
            "toggle" => Flowbit::Toggle,
            "isset" => Flowbit::IsSet,
            "isnotset" => Flowbit::IsNotSet,
            _ => return Err(Refusal::Value("expected set, unset, toggle, isset, isnotset or noalert")),
        };
        let name = words.next().filter(|name| !name.is_empty()).ok_or("the bit's name is missing")?;
        let number = self.names.number(name).ok_or("more than 1024 different flowbits")?;
        self.parts.flowbits.push(make(number));
        Ok(())
    }
}

enum Refusal {
    Value(Problem),
    Unsupported,
    NoContent,
    Pcre(String),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal::Value(problem)
    }
}

fn reference(text: &str) -> Result<Reference, Problem> {
    let (system, id) = text.split_once(',').ok_or("expected system,id")?;
    Ok(Reference { system: system.trim().to_owned(), id: id.trim().to_owned() })
}

fn modify(content: &mut Content, name: &str, text: &str) -> Result<(), Problem> {
    match name {
        "nocase" => content.ignore_case(),
        "offset" => content.offset = Some(value::number(text)?),
        "depth" => content.depth = Some(at_least_content(content, value::number(text)?)?),
        "distance" => content.distance = Some(value::number(text)?),
        "within" => content.within = Some(at_least_content(content, value::number(text)?)?),
        // The payload is always as sent.
        "rawbytes" => {}
        "fast_pattern" => content.fast_pattern = true,
        "http_uri" => content.buffer = Buffer::HttpUri,
        "http_raw_uri" => content.buffer = Buffer::HttpRawUri,
        "http_header" | "http_raw_header" => content.buffer = Buffer::HttpHeader,
        "http_method" => content.buffer = Buffer::HttpMethod,
        "http_cookie" | "http_raw_cookie" => content.buffer = Buffer::HttpCookie,
        "http_client_body" => content.buffer = Buffer::HttpClientBody,
        "http_stat_code" => content.buffer = Buffer::HttpStatCode,
        "http_stat_msg" => content.buffer = Buffer::HttpStatMessage,
        _ => return Err("no such modifier of a content"),
    }
    Ok(())
}

/// A window smaller than the content can never match: the rule's author meant something else.
fn at_least_content(content: &Content, window: usize) -> Result<usize, Problem> {
    if window < content.bytes.len() { Err("smaller than the content") } else { Ok(window) }
}
