//! A trace as a capture: a known script runs in a decoy while it is recorded, and Debian's sysdig reads what it did (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use decoys::progress::Silent;
use decoys::recipe::Recipe;
use util::Honeynet;
use util::guest::{Guest, cache, debian_kernel};

/// What is done in the decoy. Each program has a name of its own, so that it can be asked for.
const SCRIPT: &str = r#"cd /srv
mkdir scap
cd scap
echo hello > made
cat made
ln -s made soft
chmod 640 made
mv made "mo ved"
rm "mo ved" soft
cat /nowhere
perl -e 'use Socket; socket(my $s, PF_INET, SOCK_STREAM, 0); bind($s, sockaddr_in(4242, INADDR_LOOPBACK)); listen($s, 3);
  socket(my $c, PF_INET, SOCK_STREAM, 0); connect($c, sockaddr_in(4242, INADDR_LOOPBACK)); accept(my $a, $s); syswrite $c, "knock";
  kill 9, fork || sleep 100; wait; setpgrp; pipe(my $r, my $w); syswrite $w, "through"; sysread $r, my $b, 7;'
cd ..
rmdir scap
exec env LAST=yes sh -c 'exit 3'
"#;
/// How long what was done may take to be found in the file.
const PATIENCE: Duration = Duration::from_secs(60);

/// `honeynet trace NAME --scap FILE`.
struct Recording {
    child: Child,
    path: PathBuf,
}

impl Recording {
    fn start(honeynet: &Honeynet, file: &str, options: &[&str]) -> Recording {
        let mut command = Command::new(env!("CARGO_BIN_EXE_honeynet"));
        command.current_dir(honeynet.path(".")).args(["--state", "state", "trace", "a", "--scap", file]);
        let child = command.args(options).stdin(Stdio::null()).spawn().unwrap();
        let path = honeynet.path(file);
        let recording = Recording { child, path };
        let begun = Instant::now();
        while std::fs::metadata(&recording.path).map_or(0, |file| file.len()) == 0 {
            assert!(begun.elapsed() < PATIENCE, "nothing is recorded");
            std::thread::sleep(Duration::from_millis(20));
        }
        recording
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What sysdig prints of a file, and what it complains of.
fn sysdig(file: &Path, format: &str, filter: &str) -> (String, String) {
    let mut command = Command::new("sysdig");
    command.arg("-r").arg(file).args(["-p", format]);
    let done = command.args(filter.split_whitespace()).stdin(Stdio::null()).output().unwrap();
    (String::from_utf8_lossy(&done.stdout).into_owned(), String::from_utf8_lossy(&done.stderr).into_owned())
}

fn domain(honeynet: &Honeynet) -> Guest {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes");
    let recipe = Recipe::load(&recipes.join("twin.toml")).unwrap();
    let kernel = debian_kernel();
    let image = decoys::image::build(&recipe, &recipes, &kernel, &cache(), &Silent).unwrap();
    honeynet.write(
        "a.cfg",
        format!(
            "name='a'\nmemory=256\nvcpus=2\nkernel={:?}\nramdisk={:?}\nroot='/dev/xvda rw'\nextra='console=hvc0 quiet'\n\
             disk=['{},raw,xvda,w']\nhn_layer=1\n",
            kernel.vmlinux,
            image.initramfs,
            image.path.display()
        ),
    );
    honeynet.run(&["create", "a.cfg"]).good();
    Guest::attach(honeynet, "a")
}

/// What must be found: by which filter, in which format, as which line.
#[rustfmt::skip]
const FACTS: [(&str, &str, &str); 20] = [
    ("proc.name=mkdir and evt.type=mkdir and evt.dir=<", "%evt.rawres %evt.arg.path", "0 /srv/scap"),
    ("proc.name=sh and evt.type=openat and evt.dir=< and fd.name=/srv/scap/made", "%evt.rawres %fd.name %evt.arg.flags", "3 /srv/scap/made O_TRUNC|O_CREAT|O_WRONLY"),
    ("proc.name=sh and evt.type=write and evt.dir=< and fd.name=/srv/scap/made", "%evt.rawres %evt.arg.data", "6 hello."),
    ("proc.name=cat and evt.type=openat and evt.dir=< and fd.name=/srv/scap/made", "%evt.rawres %proc.cmdline %proc.pname", "3 cat made sh"),
    ("proc.name=cat and evt.type=write and evt.dir=< and evt.arg.data=hello.", "%evt.rawres %fd.name", "6 /dev/hvc0"),
    ("proc.name=ln and evt.type=symlinkat and evt.dir=<", "%evt.rawres %evt.arg.target %evt.arg.linkpath", "0 made /srv/scap/soft"),
    ("proc.name=chmod and evt.type=fchmodat and evt.dir=<", "%evt.rawres %evt.args", "0 res=0 dirfd=-100(AT_FDCWD) filename=made(/srv/scap/made) mode=0640(S_IRGRP|S_IWUSR|S_IRUSR) "),
    ("proc.name=mv and evt.type=renameat2 and evt.dir=<", "%evt.rawres %evt.arg.oldpath %evt.arg.newpath", "0 /srv/scap/made /srv/scap/mo ved"),
    ("proc.name=rm and evt.type=unlinkat and evt.dir=< and evt.arg.name=/srv/scap/soft", "%evt.rawres %evt.arg.name", "0 /srv/scap/soft"),
    ("proc.name=cat and evt.failed=true", "%evt.type %evt.rawres %evt.res %evt.arg.name", "openat -2 ENOENT /nowhere"),
    ("proc.name=perl and evt.type=bind and evt.dir=<", "%evt.rawres %evt.arg.addr", "0 127.0.0.1:4242"),
    ("proc.name=perl and evt.type=accept and evt.dir=< and fd.sport=4242", "%fd.cip %fd.sip %fd.type", "127.0.0.1 127.0.0.1 ipv4"),
    ("proc.name=perl and evt.type=connect and evt.dir=< and fd.sport=4242", "%evt.rawres %fd.sip:%fd.sport", "0 127.0.0.1:4242"),
    ("proc.name=perl and evt.type=write and evt.dir=< and fd.type=ipv4", "%evt.rawres %evt.arg.data", "5 knock"),
    ("proc.name=perl and evt.type=kill and evt.dir=>", "%evt.arg.sig", "SIGKILL"),
    ("proc.name=perl and evt.type=read and evt.dir=< and fd.type=pipe", "%evt.rawres %evt.arg.data", "7 through"),
    ("proc.name=rmdir and evt.type=rmdir and evt.dir=<", "%evt.rawres %evt.arg.path", "0 /srv/scap"),
    ("proc.name=env and evt.type=execve and evt.dir=<", "%proc.exepath %proc.cmdline %user.name %proc.cwd", "/usr/bin/env env LAST=yes sh -c exit 3 root /srv/"),
    ("proc.name=sh and evt.type=execve and evt.dir=< and proc.env contains LAST=yes", "%proc.cmdline %evt.rawres", "sh -c exit 3 0"),
    ("proc.name=sh and evt.type=procexit and evt.arg.ret=3", "%proc.cmdline %evt.arg.sig", "sh -c exit 3 0"),
];

/// Waits until the file has the script's end.
fn wait_for_end(file: &Path) {
    let begun = Instant::now();
    while sysdig(file, "%evt.num", "evt.type=procexit and evt.arg.ret=3").0.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", sysdig(file, "%evt.type", "proc.name=sh"));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn sysdig_reads_what_a_script_did() {
    let honeynet = Honeynet::new("");
    let mut guest = domain(&honeynet);
    guest.run(&format!("cat > /opt/known.sh <<'END'\n{SCRIPT}\nEND"));

    // All that is recorded by default; who records is killed at once.
    let mut all = Recording::start(&honeynet, "all.scap", &[]);
    guest.run("sh /opt/known.sh");
    wait_for_end(&all.path);
    all.child.kill().unwrap();
    all.child.wait().unwrap();
    let missing: Vec<_> = FACTS.iter().filter(|fact| !is_found(&all.path, fact)).collect();
    assert!(
        missing.is_empty(),
        "{missing:#?}\n{}",
        sysdig(&all.path, "*%evt.num %evt.dir %evt.type %proc.name %evt.args", "").0
    );
    let (events, complaints) = sysdig(&all.path, "*%evt.num", "");
    assert_eq!(complaints, "");

    // The same, cut within its last event: all that is whole is read.
    let bytes = std::fs::read(&all.path).unwrap();
    let cut = honeynet.write("cut.scap", &bytes[..bytes.len() - 5]);
    let (of_cut, complaints) = sysdig(&cut, "*%evt.num", "");
    assert!(complaints.contains("Is the file truncated?"), "{complaints}");
    assert_eq!(of_cut.lines().count() + 1, events.lines().count());

    // Two kinds of calls only, or one process only: whose they are is known all the same. Both end by themselves.
    let shell = guest.run("echo $$");
    let mut one = Recording::start(&honeynet, "one.scap", &["-p", &shell, "--seconds", "8"]);
    let mut some = Recording::start(&honeynet, "some.scap", &["-e", "execve,unlinkat", "--seconds", "8"]);
    guest.run("sh /opt/known.sh");
    assert!(some.child.wait().unwrap().success() && one.child.wait().unwrap().success());
    let (pids, complaints) = sysdig(&one.path, "%proc.pid %proc.name", "");
    let pids: BTreeSet<&str> = pids.lines().collect();
    assert_eq!((pids, complaints.as_str()), (BTreeSet::from([format!("{shell} sh").as_str()]), ""));
    let (types, complaints) = sysdig(&some.path, "%evt.type", "");
    let types: BTreeSet<&str> = types.lines().collect();
    assert_eq!((types, complaints.as_str()), (BTreeSet::from(["execve", "unlinkat"]), ""));
    for fact in FACTS
        .iter()
        .filter(|(filter, ..)| filter.contains("evt.type=unlinkat") || filter.contains("evt.type=execve"))
    {
        assert!(is_found(&some.path, fact), "{fact:?}");
    }
}

fn is_found(file: &Path, (filter, format, expected): &(&str, &str, &str)) -> bool {
    sysdig(file, format, filter).0.lines().any(|line| line == *expected)
}
