//! Our trace against strace: the same script in two domains of one image, below `strace -ff` in the one, seen from outside in its twin. Call by
//! call both must say the same (root, /dev/kvm).
//!
//! Compared is every call of the default set, reads and closes of whatever descriptor too, for both are asked by name. What is not compared of a
//! call is said at [`ALIKE`], [`NOT_WHOLE`] and [`alike`].
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use decoys::progress::Silent;
use decoys::recipe::Recipe;
use introspect::trace::calls;
use introspect::trace::selection::Selection;
use serde_json::Value;
use util::Honeynet;
use util::guest::{Guest, cache, debian_kernel};

const PROGRAM: &str = "env -i PATH=/usr/bin:/bin PERL_HASH_SEED=0 sh /opt/twin.sh";
/// What ends the script, as its `exit_group`.
const STATUS: &str = "3";
/// How long the last call may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Letters of arguments that both print alike. The others are addresses, which differ from run to run, and flags, for which strace has names and
/// ours has numbers: of a call with one of those, the descriptor that comes first and all strings are compared.
const ALIKE: &str = "duOPfFsioaG";
/// A call of alike letters that is printed otherwise: strace has names for its numbers.
const NOT_WHOLE: &str = "socket";
/// A number with as many digits is an address.
const ADDRESS_LENGTH_MIN: usize = 10;
/// What is read from it differs from run to run.
const RANDOM: &str = "\"/dev/urandom\"";
/// Their arguments are pids: mapped, then compared whole.
const OF_PIDS: [&str; 3] = ["kill", "tkill", "tgkill"];
/// Their result is one.
const GIVE_PIDS: [&str; 5] = ["clone", "clone3", "fork", "vfork", "setsid"];

/// A call as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    name: String,
    /// All arguments where both print them alike, else the descriptor that comes first.
    arguments: String,
    strings: Vec<String>,
    result: String,
}

/// Calls by thread, in order.
type Calls = BTreeMap<u32, Vec<Call>>;

#[test]
fn a_script_below_strace_and_its_twin_make_the_same_calls() {
    let honeynet = Honeynet::new("");
    let list = Selection::default_set().names().join(",");
    let strace = {
        let mut guest = domain(&honeynet, "a");
        below_strace(&mut guest, &list)
    };
    honeynet.run(&["destroy", "a"]).good();
    let ours = {
        let mut guest = domain(&honeynet, "b");
        from_outside(&honeynet, &mut guest, &list)
    };
    let (theirs, ours) = (by_creation(strace), by_creation(ours));
    let differences = differences(&theirs, &ours);
    let count: usize = theirs.iter().map(Vec::len).sum();
    let names: BTreeSet<&str> = theirs.iter().flatten().map(|call| call.name.as_str()).collect();
    println!("{count} calls of {} kinds in {} processes: {names:?}", names.len(), theirs.len());
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert!(theirs.len() > 15 && names.len() > 60, "the script did not do what it should");
}

fn domain(honeynet: &Honeynet, name: &str) -> Guest {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes");
    let recipe = Recipe::load(&recipes.join("twin.toml")).unwrap();
    let kernel = debian_kernel();
    let image = decoys::image::build(&recipe, &recipes, &kernel, &cache(), &Silent).unwrap();
    let file = format!("{name}.cfg");
    honeynet.write(
        &file,
        format!(
            "name='{name}'\nmemory=256\nkernel={:?}\nramdisk={:?}\nroot='/dev/xvda rw'\nextra='console=hvc0 quiet'\n\
             disk=['{},raw,xvda,w']\nhn_layer=1\n",
            kernel.vmlinux,
            image.initramfs,
            image.path.display()
        ),
    );
    honeynet.run(&["create", &file]).good();
    let mut guest = Guest::attach(honeynet, name);
    // Twice, so that what the first run reads from the disk and leaves behind is the same for both.
    guest.run(&format!("{PROGRAM} > /dev/null 2>&1 < /dev/null"));
    guest
}

/// A file a thread; each line a whole call.
fn below_strace(guest: &mut Guest, list: &str) -> Calls {
    let strace = format!("strace -ff -v -qq -s 256 -e signal=none -e trace={list} -o /tmp/log");
    guest.run(&format!("{strace} {PROGRAM} > /dev/null 2>&1 < /dev/null"));
    let printed = guest.run("cd /tmp; for log in log.*; do echo \"== $log\"; cat $log; done; cd");
    let mut calls = Calls::new();
    let mut thread = 0;
    for line in printed.lines() {
        match line.strip_prefix("== log.") {
            Some(pid) => {
                thread = pid.parse().unwrap();
                calls.entry(thread).or_default();
            }
            None => push(calls.entry(thread).or_default(), of_strace(line)),
        }
    }
    // The first thing that is seen is the program itself; its twin was started by a shell.
    calls.first_entry().unwrap().get_mut().remove(0);
    calls
}

/// `name(arguments) = result`
fn of_strace(line: &str) -> Call {
    let parsed = || {
        let (call, result) = line.rsplit_once(" = ")?;
        let (name, arguments) = call.trim_end().strip_suffix(')')?.split_once('(')?;
        let words: Vec<&str> = result.split(' ').collect();
        // `-1 ENOENT (…)` and `? ERESTARTSYS (…)`; what follows another result is a word about it.
        let result = match words[..] {
            [sign @ ("-1" | "?"), error, ..] => format!("{sign} {error}"),
            _ => words[0].to_owned(),
        };
        Some(call_of(name, arguments, result))
    };
    parsed().unwrap_or_else(|| panic!("strace wrote {line:?}"))
}

/// The next call of a thread.
fn push(own: &mut Vec<Call>, mut call: Call) {
    let random = own.last().is_some_and(|last| last.name.starts_with("open") && last.strings == [RANDOM]);
    if call.name == "read" && random {
        call.strings.clear();
    }
    own.push(call);
}

fn call_of(name: &str, arguments: &str, result: String) -> Call {
    let letters = calls::by_name(name).unwrap_or_else(|| panic!("no call {name}")).arguments;
    let whole = letters.chars().all(|letter| ALIKE.contains(letter)) && name != NOT_WHOLE;
    let compared = match letters.chars().next() {
        _ if whole => arguments,
        Some('f' | 'F') => arguments.split(", ").next().unwrap_or_default(),
        _ => "",
    };
    Call {
        name: name.to_owned(),
        // A string that one of them cuts is compared below. A failed read names no bytes but the buffer's address.
        arguments: without_strings(compared).split(", ").map(without_address).collect::<Vec<_>>().join(", "),
        strings: strings(arguments),
        result,
    }
}

/// What stands in quotes, with its escapes; `...` after it stays.
fn strings(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(text, |quoted, string| {
        if quoted {
            found.push(string.to_owned());
        }
    });
    found
}

fn without_address(argument: &str) -> &str {
    if argument.starts_with("0x") && argument.len() > ADDRESS_LENGTH_MIN { "0x" } else { argument }
}

fn without_strings(text: &str) -> String {
    let mut rest = String::new();
    walk(text, |quoted, part| rest.push_str(if quoted { "\"\"" } else { part }));
    rest
}

/// Parts in quotes (with what says that they were cut) and parts between them.
fn walk(text: &str, mut part: impl FnMut(bool, &str)) {
    let mut rest = text;
    while let Some(begin) = rest.find('"') {
        part(false, &rest[..begin]);
        let inner = &rest[begin + 1..];
        let mut escaped = false;
        let end = inner.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = begin + end.map_or(inner.len(), |end| end + 2);
        let end = end + if rest[end..].starts_with("...") { 3 } else { 0 };
        part(true, &rest[begin..end]);
        rest = &rest[end..];
    }
    part(false, rest);
}

/// `honeynet trace`, and what it prints.
struct Trace {
    child: Child,
    lines: Receiver<Value>,
}

impl Trace {
    fn start(honeynet: &Honeynet, name: &str, list: &str) -> Trace {
        let mut command = Command::new(env!("CARGO_BIN_EXE_honeynet"));
        command
            .current_dir(honeynet.path("."))
            .args(["--state", "state", "trace", name, "-e", list, "--json"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Trace { child, lines }
    }

    fn next(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn from_outside(honeynet: &Honeynet, guest: &mut Guest, list: &str) -> Calls {
    let trace = Trace::start(honeynet, "b", list);
    let begun = Instant::now();
    // It has begun when it shows what the console's shell does.
    while trace.lines.try_recv().is_err() {
        assert!(begun.elapsed() < PATIENCE, "the trace shows nothing");
        guest.run("true");
    }
    let said = guest.run(&format!("sh -c 'echo pid $$; exec {PROGRAM} > /dev/null 2>&1 < /dev/null'"));
    let root: u32 = said.strip_prefix("pid ").unwrap().trim().parse().unwrap();
    let (mut seen, mut calls) = (Vec::new(), Calls::from([(root, Vec::new())]));
    loop {
        let line = trace.next();
        assert!(line["lost"].is_null(), "{line}");
        let ended = line["call"] == "exit_group" && line["tid"] == root && line["arguments"][0] == STATUS;
        seen.push(line);
        if ended {
            break;
        }
    }
    family(&seen, &mut calls);
    let calls_of_root = calls.get_mut(&root).unwrap();
    let program = |call: &Call| call.name == "execve" && call.result == "0" && call.strings[1] == "\"env\"";
    let begin = calls_of_root.iter().position(program).unwrap();
    calls_of_root.drain(..=begin);
    calls
}

/// Calls of the root of `calls` and of who descends from it.
fn family(seen: &[Value], calls: &mut Calls) {
    // A child may act before its parent's call has ended, so the family is known first.
    let thread = |line: &Value| u32::try_from(line["tid"].as_u64().unwrap()).unwrap();
    let births: Vec<(u32, u32)> = seen
        .iter()
        .filter(|line| GIVE_PIDS[..4].iter().any(|name| line["call"] == *name))
        .filter_map(|line| Some((thread(line), u32::try_from(line["result"].as_i64()?).ok()?)))
        .collect();
    let mut grown = true;
    while grown {
        grown = false;
        for (parent, child) in &births {
            grown |= *child > 0
                && calls.contains_key(parent)
                && !calls.contains_key(child)
                && calls.insert(*child, Vec::new()).is_none();
        }
    }
    for line in seen {
        if let Some(own) = calls.get_mut(&thread(line)) {
            push(own, of_ours(line));
        }
    }
}

fn of_ours(line: &Value) -> Call {
    let arguments: Vec<&str> =
        line["arguments"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let result = match (line["error"].as_str(), line["result"].as_i64()) {
        (Some(error), _) if error.starts_with("ERESTART") => format!("? {error}"),
        (Some(error), _) => format!("-1 {error}"),
        (None, Some(result)) => result.to_string(),
        (None, None) => "?".to_owned(),
    };
    call_of(line["call"].as_str().unwrap(), &arguments.join(", "), result)
}

/// Threads in the order of their creation (their numbers rise), with pids replaced by their place in it.
fn by_creation(calls: Calls) -> Vec<Vec<Call>> {
    let places: BTreeMap<String, String> =
        calls.keys().enumerate().map(|(place, pid)| (pid.to_string(), format!("<{place}>"))).collect();
    let mapped = |text: &str| places.get(text).cloned().unwrap_or_else(|| text.to_owned());
    let map = |mut call: Call| {
        if GIVE_PIDS.contains(&call.name.as_str()) {
            call.result = mapped(&call.result);
        }
        if OF_PIDS.contains(&call.name.as_str()) {
            call.arguments = call.arguments.split(", ").map(mapped).collect::<Vec<_>>().join(", ");
        }
        call
    };
    calls.into_values().map(|own| own.into_iter().map(map).collect()).collect()
}

fn differences(theirs: &[Vec<Call>], ours: &[Vec<Call>]) -> Vec<String> {
    let mut found = Vec::new();
    if theirs.len() != ours.len() {
        found.push(format!("strace saw {} processes, we saw {}", theirs.len(), ours.len()));
    }
    for (place, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
        for number in 0..theirs.len().max(ours.len()) {
            let pair = (theirs.get(number), ours.get(number));
            if !matches!(pair, (Some(theirs), Some(ours)) if alike(theirs, ours)) {
                found.push(format!(
                    "process {place}, call {number}:\n  strace {:?}\n  ours   {:?}",
                    pair.0, pair.1
                ));
                // One that is missing moves all that follow.
                if pair.0.map(|call| &call.name) != pair.1.map(|call| &call.name) {
                    break;
                }
            }
        }
    }
    found
}

/// The same, but for two things. The shim keeps 256 bytes of a path, strace all of it. And where a handler interrupts a call, strace stops the
/// task before the kernel has made `EINTR` of its own `ERESTARTSYS`; ours tells what the program gets.
fn alike(theirs: &Call, ours: &Call) -> bool {
    let same = |(theirs, ours): (&String, &String)| {
        let cut = |text: &str| text.strip_suffix("\"...").map(str::to_owned);
        match (cut(theirs), cut(ours)) {
            (None, Some(ours)) => theirs.starts_with(&ours),
            _ => theirs == ours,
        }
    };
    let interrupted = theirs.result == "? ERESTARTSYS" && ours.result == "-1 EINTR";
    (&theirs.name, &theirs.arguments) == (&ours.name, &ours.arguments)
        && (theirs.result == ours.result || interrupted)
        && theirs.strings.len() == ours.strings.len()
        && theirs.strings.iter().zip(&ours.strings).all(same)
}
