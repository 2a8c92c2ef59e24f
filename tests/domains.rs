//! Domains as their owner meets them: a real kernel, through the real command line (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use util::guest::{Guest, write_kernel_and_shell};
use util::{Honeynet, kill, row_when, told};

fn pid(honeynet: &Honeynet, name: &str) -> i64 {
    row_when(honeynet, name, |row| row.is_some()).unwrap()["pid"].as_i64().unwrap()
}

#[test]
fn a_domain_lives_through_every_word_of_xl() {
    let honeynet = Honeynet::new("");
    let mut guest = Guest::create(&honeynet, "a", "vif=['']");
    assert_eq!(guest.run("uname -s"), "Linux");
    let row = row_when(&honeynet, "a", |row| row.is_some_and(|row| row["state"] == "-b----")).unwrap();
    assert_eq!((row["domid"].as_u64(), row["mem_mib"].as_u64()), (Some(1), Some(128)));

    honeynet.run(&["pause", "a"]).good();
    honeynet.run(&["pause", "a"]).fails(1, "domain a is paused, not running");
    guest.send("echo typed-while-paused\n");
    let before = honeynet.run(&["info", "a", "--json"]).good().json();
    assert_eq!(row_when(&honeynet, "a", |row| row.is_some()).unwrap()["state"], "--p---");
    let after = honeynet.run(&["info", "a", "--json"]).good().json();
    assert_eq!(before["shim"], after["shim"], "a paused vcpu ran");
    honeynet.run(&["unpause", "a"]).good();
    honeynet.run(&["unpause", "1"]).fails(1, "domain a is running, not paused");
    guest.wait_for("typed-while-paused");

    let store = honeynet.run(&["xenstore-ls", "a"]).good().stdout;
    assert!(store.contains("name = \"a\"") && store.contains("vif"), "{store}");
    honeynet.run(&["dmesg", "a"]).good();
    let log = fs::read_to_string(honeynet.path("state/domains/a/console.log")).unwrap();
    assert!(log.contains("typed-while-paused"));
    honeynet.run(&["destroy", "a"]).good();
    guest.wait_end();
    honeynet.run(&["info", "a"]).fails(3, "there is no domain a");
}

#[test]
fn the_sample_file_of_old_boots_as_it_stands() {
    let honeynet = Honeynet::new("");
    write_kernel_and_shell(&honeynet);
    honeynet.write("master.img", vec![7; 1 << 20]);
    honeynet.write("swap.img", vec![0; 1 << 20]);
    let (kernel, folder) = (honeynet.path("k"), honeynet.path("."));
    let folder = folder.display();
    honeynet.write(
        "master.cfg",
        format!(
            "kernel = \"{}\"\nramdisk = \"{folder}/i\"\nmemory = 128\nname = \"master\"\nvif = [ \"\", \"\" ]\n\
             disk = ['file:{folder}/master.img,sda1,w','file:{folder}/swap.img,sda2,w']\nroot = \"/dev/sda1 ro\"\nvcpus = 4\n\
             extra = \"console=hvc0 quiet\"\nhap = 1\n",
            kernel.display()
        ),
    );
    let done = honeynet.run(&["create", "master.cfg"]).good();
    assert!(!done.stderr.contains("vcpus") && done.stderr.contains("hap"), "{done:?}");
    let mut guest = Guest::attach(&honeynet, "master");
    assert_eq!(guest.run("cat /proc/cmdline"), "root=/dev/sda1 ro console=hvc0 quiet");
    assert_eq!(guest.run("ls /sys/class/net | tr '\\n' ' '"), "eth0 eth1 lo");
    assert_eq!(
        guest.run("head -c 4 /dev/xvda1 | od -An -tx1; cat /sys/block/xvda*/size"),
        "07 07 07 07\n2048\n2048"
    );
    assert_eq!(guest.run("grep -c processor /proc/cpuinfo"), "4");
}

#[test]
fn vcpus_are_set_and_listed() {
    let honeynet = Honeynet::new("");
    let mut guest = Guest::create(&honeynet, "a", "vcpus=2\nmaxvcpus=3");
    let processors = |guest: &mut Guest, wanted: &str| {
        for _ in 0..100 {
            if guest.run("grep -c processor /proc/cpuinfo; sleep 0.1") == wanted {
                return;
            }
        }
        panic!("{wanted} processors did not come: {}", guest.run("cat /proc/cpuinfo"));
    };
    // What the file keeps back is taken offline when xenstore is read.
    processors(&mut guest, "2");
    assert_eq!(honeynet.run(&["list", "a", "--json"]).good().json()[0]["vcpus"], 2);
    honeynet.run(&["vcpu-set", "a", "1"]).good();
    processors(&mut guest, "1");
    let text = honeynet.run(&["vcpu-list", "a"]).good().stdout;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        ["Name", "ID", "VCPU", "CPU", "State", "Time(s)", "Affinity", "(Hard", "/", "Soft)"]
    );
    assert_eq!((lines.len(), lines[1][2], lines[2][2]), (4, "0", "1"), "{text}");
    assert_eq!(lines[2][3..5], ["-", "--p"], "{text}");
    assert!(matches!(lines[1][4], "r--" | "-b-"), "{text}");
    honeynet.run(&["vcpu-set", "a", "3"]).good();
    // As under Xen: an offered cpu comes online when the guest's userland says so.
    guest.run("sleep 0.5; for cpu in /sys/devices/system/cpu/cpu[12]; do echo 1 > $cpu/online; done");
    processors(&mut guest, "3");
    let info = honeynet.run(&["info", "a", "--json"]).good().json();
    assert_eq!((&info["vcpus"], &info["maxvcpus"]), (&3.into(), &3.into()));
    assert_eq!(honeynet.run(&["vcpu-list", "--json"]).good().json().as_array().unwrap().len(), 3);
    for wrong in ["0", "4"] {
        let refused = honeynet.run(&["vcpu-set", "a", wrong]);
        assert_ne!(refused.code, 0);
        assert!(refused.stderr.contains("a domain with 3 vcpus cannot have"), "{refused:?}");
    }
}

#[test]
fn what_the_file_says_of_an_end_is_done() {
    let honeynet = Honeynet::new("");
    // Preserved after its poweroff, and gone when destroyed.
    let mut guest = Guest::create(&honeynet, "kept", "on_poweroff='preserve'");
    guest.send("poweroff -f\n");
    guest.wait_end();
    row_when(&honeynet, "kept", |row| row.is_some_and(|row| row["state"] == "---s--"));
    honeynet.run(&["destroy", "kept"]).good();
    assert!(row_when(&honeynet, "kept", |row| row.is_none()).is_none());

    // Restarted after a reboot, with the disk that it wrote and under a new number.
    honeynet.write("d.img", vec![0; 1 << 20]);
    let mut guest = Guest::create(&honeynet, "again", "disk=['d.img,,xvda,w']\nhn_layer=1");
    let domid = row_when(&honeynet, "again", |row| row.is_some()).unwrap()["domid"].clone();
    guest.run("sleep 1; echo written-before | dd of=/dev/xvda bs=512 conv=sync,fsync");
    guest.send("reboot -f\n");
    guest.wait_end();
    row_when(&honeynet, "again", |row| row.is_some_and(|row| row["domid"] != domid));
    let mut guest = Guest::attach(&honeynet, "again");
    assert_eq!(guest.run("head -c 14 /dev/xvda"), "written-before");

    // Its memory is written down when its kernel crashes.
    let mut guest = Guest::create(&honeynet, "crash", "on_crash='coredump-destroy'");
    guest.send("echo c > /proc/sysrq-trigger\n");
    guest.wait_end();
    row_when(&honeynet, "crash", |row| row.is_none());
    assert!(told(&honeynet, "domain.crashed", "the guest's kernel reported a crash"));
    let core = fs::read_dir(honeynet.path("state/domains/crash")).unwrap().flatten();
    let core =
        core.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "raw")).unwrap();
    assert_eq!(fs::metadata(core).unwrap().len(), 128 << 20);
}

#[test]
fn a_guest_that_is_asked_powers_off() {
    let honeynet = Honeynet::new("");
    // busybox's shell has no init that would hear the request: the kernel runs this program when it comes.
    let mut guest = Guest::create(&honeynet, "a", "");
    guest.run("echo '#!/bin/sh\n/bin/poweroff -f' > /sbin-poweroff; chmod +x /sbin-poweroff; mkdir -p /sbin; ln -s /sbin-poweroff /sbin/poweroff");
    honeynet.run(&["shutdown", "-w", "a"]).good();
    guest.wait_end();
    row_when(&honeynet, "a", |row| row.is_none());
    assert!(told(&honeynet, "domain.stopped", "poweroff"), "{}", honeynet.run(&["dmesg"]).stdout);
}

#[test]
fn a_killed_domain_is_an_event_and_no_other_notices() {
    let honeynet = Honeynet::new("");
    let mut other = Guest::create(&honeynet, "other", "vif=['']");
    let _victim = Guest::create(&honeynet, "victim", "vif=['']");
    kill(pid(&honeynet, "victim"));
    row_when(&honeynet, "victim", |row| row.is_none());
    assert!(told(&honeynet, "domain.crashed", "its process was killed by signal 9"));
    let begun = Instant::now();
    while honeynet.run(&["events", "--domain", "victim", "--id", "domain.crashed"]).good().stdout.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no event of the victim");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(other.run("echo here"), "here");
    // Its name, its port and its memory group are free again.
    let mut again = Guest::create(&honeynet, "victim", "vif=['']");
    assert_eq!(again.run("echo back"), "back");
}

#[test]
fn a_domains_process_has_given_everything_away() {
    let honeynet = Honeynet::new("");
    let _guest = Guest::create(&honeynet, "a", "vif=['']");
    let pid = pid(&honeynet, "a");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!(field("Uid"), "200001\t200001\t200001\t200001");
    assert_eq!(field("Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2"), "a thread without filter: {status}");
    }
    let namespace = |pid: &str, kind: &str| fs::metadata(format!("/proc/{pid}/ns/{kind}")).unwrap().ino();
    for kind in ["mnt", "net", "ipc", "uts", "pid"] {
        assert_ne!(namespace(&pid.to_string(), kind), namespace("self", kind), "{kind}");
    }
    assert_eq!(fs::read_dir(format!("/proc/{pid}/root")).unwrap().count(), 0);
    // Its log had no name when the process began.
    let log = fs::metadata(honeynet.path("state/domains/a/vmm.log")).unwrap().ino();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|file| file.path());
    let files = files.filter(|file| fs::metadata(file).is_ok_and(|metadata| metadata.ino() != log));
    let files: Vec<_> = files.filter_map(|file| fs::read_link(file).ok()).collect();
    let odd = files
        .iter()
        .filter(|file| file.starts_with("/") && !file.starts_with(honeynet.path("state/domains")));
    let odd: Vec<_> = odd
        .filter(|file| {
            !["/dev/kvm", "/dev/null"].iter().any(|known| file.as_path() == std::path::Path::new(known))
        })
        .filter(|file| !file.to_string_lossy().starts_with("/memfd:"))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
}

#[test]
fn a_kernel_that_is_none_is_refused_in_one_sentence() {
    let honeynet = Honeynet::new("");
    write_kernel_and_shell(&honeynet);
    let whole = fs::read(honeynet.path("k")).unwrap();
    honeynet.write("truncated", &whole[..whole.len() / 2]);
    // An ELF file, but nobody's kernel.
    honeynet.write("program", fs::read("/bin/busybox").unwrap());
    honeynet.write("text", "no kernel at all");
    let create = |kernel: &str, keys: &str| {
        honeynet.write("x.cfg", format!("name='x'\nmemory=64\nkernel='{kernel}'\n{keys}\n"));
        honeynet.run(&["create", "x.cfg"])
    };
    create("truncated", "").fails_with("domain x did not start: the kernel cannot be booted: ");
    create("program", "").fails_with("domain x did not start: the kernel cannot be booted: ");
    create("text", "").fails_with("domain x did not start: the kernel cannot be booted: ");
    // Nothing that was begun stays.
    assert!(!honeynet.path("state/domains/x").exists());
    assert_eq!(honeynet.run(&["list", "--json"]).good().json(), serde_json::json!([]));
    // Too small for its kernel.
    honeynet.write("y.cfg", "name='y'\nmemory=32\nkernel='k'\nramdisk='i'\n");
    honeynet.run(&["create", "y.cfg"]).fails_with("domain y did not start: ");
}

#[test]
fn a_host_without_kvm_is_told_so_and_nothing_starts() {
    let honeynet = Honeynet::new("");
    write_kernel_and_shell(&honeynet);
    honeynet.write("x.cfg", "name='x'\nmemory=64\nkernel='k'\n");
    // A mount namespace whose /dev has all but kvm.
    let script = "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && mknod /dev/zero c 1 5 && mknod /dev/urandom c 1 9 && \
                  mkdir /dev/net && mknod /dev/net/tun c 10 200 && exec \"$@\"";
    let within = |words: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_honeynet"),
            "--state",
            "state",
        ]);
        command
            .args(words)
            .current_dir(honeynet.path("."))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    };
    for words in [&["create", "x.cfg"][..], &["up"]] {
        let output = within(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{words:?}: {said}");
        assert!(said.contains("/dev/kvm"), "{said}");
    }
    let checks = String::from_utf8(within(&["doctor"]).stdout).unwrap();
    assert!(checks.lines().any(|line| line.contains("/dev/kvm") && !line.starts_with("ok")), "{checks}");
    assert!(!honeynet.path("state/domains/x").exists());
}
