use super::*;

const ISSUE_EXAMPLE: &str = r#"
kernel = "/boot/vmlinuz"
memory = 128
name = "master"
vif = [ "", "" ]
disk = ['file:/img/master.img,sda1,w','file:/img/swap.img,sda2,w']
root = "/dev/sda1 ro"
vcpus = 4
"#;

#[test]
fn the_classic_file_is_accepted_as_it_stands() {
    let Parsed { file, warnings } = parse(ISSUE_EXAMPLE).unwrap();
    assert_eq!(file.name, "master");
    assert_eq!(file.memory_mib, 128);
    assert_eq!(file.vcpus, 4);
    assert_eq!(file.kernel, Some("/boot/vmlinuz".into()));
    assert_eq!(file.cmdline, "root=/dev/sda1 ro");
    assert_eq!(file.vifs.len(), 2);
    let disks: Vec<_> =
        file.disks.iter().map(|d| (d.target.to_str().unwrap(), d.vdev.as_str(), d.read_only)).collect();
    assert_eq!(disks, [("/img/master.img", "sda1", false), ("/img/swap.img", "sda2", false)]);
    assert_eq!(file.maxvcpus, 4);
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn unknown_ignored_and_double_keys_are_warned_of() {
    let text = "name='a'\nmemory=64\nkernel='/k'\nbootloader='pygrub'\ncolour=1\nmemory='128'\ntype='pv'\nvif=['bridge=br0']\n";
    let Parsed { file, warnings } = parse(text).unwrap();
    assert_eq!(file.memory_mib, 128);
    assert_eq!(
        warnings,
        [
            "line 2: memory is set again below, the last one counts",
            "line 4: bootloader has no effect here",
            "line 5: unknown key colour",
            "line 8: bridge of vif has no effect here: every vif ends at the honeynet's switch",
        ]
    );
}

#[test]
fn cmdline_replaces_root_and_extra() {
    let base = "name='a'\nmemory=64\nkernel='/k'\n";
    let cmdline = |more: &str| parse(&format!("{base}{more}")).unwrap().file.cmdline;
    assert_eq!(cmdline("root='/dev/xvda ro'\nextra='quiet'"), "root=/dev/xvda ro quiet");
    assert_eq!(cmdline("root='/dev/xvda'\ncmdline='console=hvc0'"), "console=hvc0");
    assert_eq!(cmdline(""), "");
}

#[test]
fn exits_uuid_and_own_keys_are_read() {
    let text = "name='a'\nmemory=64\nhn_recipe='ssh-server'\non_crash='coredump-restart'\non_reboot='preserve'\n\
                uuid='00112233-4455-6677-8899-aabbccddeeff'\nhn_layer=1\nhn_address='10.77.0.2'";
    let file = parse(text).unwrap().file;
    assert_eq!(
        (file.on_poweroff, file.on_reboot, file.on_crash),
        (OnExit::Destroy, OnExit::Preserve, OnExit::CoredumpRestart)
    );
    assert_eq!(file.uuid.unwrap()[15], 0xff);
    assert!(file.layered);
}

#[test]
fn refusals_name_key_line_and_column() {
    let check = |line: &str, sentence: &str| {
        let text = format!("name='a'\nmemory=64\nkernel='/k'\n{line}\n");
        assert_eq!(parse(&text).unwrap_err().to_string(), sentence, "of {line:?}");
    };
    check("memory = 'much'", "line 4, column 10: memory must be a number");
    check("memory = 8", "line 4, column 10: memory = 8 is not between 32 and 1048576");
    check("vcpus = 0", "line 4, column 9: vcpus = 0 is not between 1 and 8");
    check("vcpus = 9", "line 4, column 9: vcpus = 9 is not between 1 and 8");
    check("maxvcpus = 9", "line 4, column 12: maxvcpus = 9 is not between 1 and 8");
    check("vcpus = 4\nmaxvcpus = 2", "line 4, column 9: vcpus = 4 is not between 1 and 2");
    check(
        "name = '../x'",
        "line 4, column 8: name must be 1 to 64 letters, digits, dots, dashes or underscores that begin with a letter or digit",
    );
    check("kernel = 3", "line 4, column 10: kernel must be a string in quotes");
    check("disk = 'x'", "line 4, column 8: disk must be a list of at most 16 strings");
    check("disk = ['a,b']", "line 4, column 9: disk \"a,b\" has format \"b\", only raw is served");
    check("disk = ['a,,xvda', 'b,,xvda']", "line 4, column 20: vdev \"xvda\" stands twice");
    check(
        "vif = ['mac=x']",
        "line 4, column 8: vif \"mac=x\" has mac \"x\", which is not six hexadecimal bytes of a unicast address",
    );
    check("type = 'hvm'", "line 4, column 8: type = \"hvm\" is none of pv");
    check(
        "on_crash = 'soft-reset'",
        "line 4, column 12: on_crash = \"soft-reset\" is none of destroy, restart, rename-restart, preserve, coredump-destroy, coredump-restart",
    );
    check("uuid = 'x'", "line 4, column 8: uuid must be a UUID in quotes");
}

#[test]
fn a_file_without_its_needed_keys_is_refused() {
    let check = |text: &str, sentence: &str| assert_eq!(parse(text).unwrap_err().to_string(), sentence);
    check("", "the file does not set name");
    check("name='a'", "the file does not set memory");
    check("name='a'\nmemory=64", "the file does not set kernel");
}
