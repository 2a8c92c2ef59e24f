use super::*;

fn parse(text: &str) -> Policy {
    Policy::parse("x.policy", text).unwrap()
}

#[test]
fn the_most_specific_rule_decides() {
    let policy = parse("/ R\n!/var\n/var/lib/dpkg/info L\n=/tmp p\n/home/*/.ssh R+diff\n/etc u\n/etc g\n");
    let cases = [
        ("/bin/ls", Attributes::named("R")),
        ("/var/log/syslog", None),
        ("/var/lib/dpkg/info/x", Attributes::named("L")),
        ("/tmp", Attributes::named("p")),
        ("/tmp/x", Attributes::named("R")),
        ("/home/ann/.ssh/key", Some(Attributes::named("R").unwrap() | Attributes::DIFF)),
        ("/etc/x", Some(Attributes::GROUP)),
    ];
    for (path, expected) in cases {
        assert_eq!(policy.attributes(path), expected, "{path}");
    }
}

#[test]
fn groups_are_sums_and_differences() {
    let policy = parse("base = p + u+g\nfine = base+b3-g # comment\n/a fine\n");
    let expected = Attributes::PERMISSIONS | Attributes::USER | Attributes::CONTENT;
    assert_eq!(policy.attributes("/a"), Some(expected));
    assert_eq!(expected.to_string(), "p+u+b3");
}

#[test]
fn mistakes_are_told_with_line_and_column() {
    let cases = [
        ("/etc p+zz", 1, 8, "unknown attribute or group \"zz\""),
        ("\n  /etc", 2, 7, "rule for /etc has no attributes"),
        ("a = p\na = u", 2, 1, "group \"a\" is defined already"),
        ("p = u", 1, 1, "group \"p\" is defined already"),
        ("a = p+", 1, 7, "an attribute or group is missing here"),
        ("a = +p", 1, 5, "an attribute or group is missing here"),
        ("etc p", 1, 1, "neither a group (name = attributes) nor a rule (/path attributes): \"etc\""),
        ("!/var x", 1, 7, "unexpected text \"x\""),
        ("!var", 1, 2, "neither a group (name = attributes) nor a rule (/path attributes): \"var\""),
        ("/etc p u", 1, 8, "unexpected text \"u\""),
    ];
    for (text, line, column, problem) in cases {
        let error = Policy::parse("x.policy", text).unwrap_err();
        assert_eq!(error.to_string(), format!("x.policy:{line}:{column}: {problem}"), "{text:?}");
    }
}

#[test]
fn the_built_in_policy_watches_passwd_and_not_the_logs() {
    let policy = Policy::debian();
    assert!(policy.attributes("/etc/passwd").unwrap().contains(Attributes::CONTENT | Attributes::DIFF));
    assert_eq!(policy.attributes("/var/log/syslog"), None);
    assert!(policy.attributes("/tmp/x").unwrap().contains(Attributes::CONTENT));
}
