use super::*;

const PID: u32 = 300;
const HIDDEN: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x33, 0x8a, 0, 0];
const SHOWN: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3b, 0x8a, 0, 0];

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn asking(command: &str) -> Prompts {
    let mut prompts = Prompts::default();
    let exe = format!("/usr/bin/{}", command.split(' ').next().unwrap());
    assert_eq!(prompts.executed(PID, &exe, &words(command)), None);
    prompts
}

/// The program asks, and this is typed.
fn answer(prompts: &mut Prompts, prompt: &str, typed: &str) -> Option<Told> {
    assert_eq!(prompts.wrote(PID, prompt.as_bytes()), None);
    prompts.terminal_set(PID, &HIDDEN);
    let told = typed.bytes().find_map(|byte| prompts.read(PID, Place::Terminal, &[byte]));
    prompts.terminal_set(PID, &SHOWN);
    assert_eq!(prompts.wrote(PID, b"\n"), None);
    told
}

fn told(program: Program, user: &str, password: &str, right: bool) -> Option<Told> {
    Some((program, PID, Guess { user: user.to_owned(), password: password.to_owned(), right }))
}

#[test]
fn a_complaint_says_that_it_was_wrong() {
    let mut prompts = asking("su");
    assert_eq!(answer(&mut prompts, "Password: ", "bad\n"), None);
    assert_eq!(prompts.wrote(PID, b"su: "), None);
    assert_eq!(prompts.wrote(PID, b"Authentication failure"), told(Program::Su, "root", "bad", false));
    assert_eq!(prompts.exited(PID, Some(1)), None);
    assert!(!prompts.has(PID));
}

#[test]
fn a_shell_below_it_says_that_it_was_right() {
    let mut prompts = asking("su - admin");
    answer(&mut prompts, "Password: ", "admin123\n");
    prompts.forked(PID, 301);
    assert_eq!(prompts.executed(301, "/usr/sbin/unix_chkpwd", &words("unix_chkpwd admin")), None);
    assert_eq!(
        prompts.executed(301, "/bin/bash", &words("-bash")),
        told(Program::Su, "admin", "admin123", true)
    );
    // What is typed into that shell is no password, nor is what it says.
    assert_eq!(answer(&mut prompts, "$ ", "id\n"), None);
    assert_eq!(prompts.exited(PID, Some(1)), None);
}

#[test]
fn who_wants_another_password_did_not_take_the_first() {
    let mut prompts = asking("sudo id");
    answer(&mut prompts, "[sudo] password for admin: ", "one\n");
    let second = answer(&mut prompts, "Noch einmal.\n[sudo] password for admin: ", "two\n");
    assert_eq!(second, told(Program::Sudo, "admin", "one", false));
    // With a terminal of its own, sudo's child's child runs the command.
    prompts.forked(PID, 301);
    prompts.forked(301, 302);
    assert_eq!(prompts.executed(302, "/usr/bin/id", &words("id")), told(Program::Sudo, "admin", "two", true));
}

#[test]
fn sudo_that_runs_nothing_is_judged_by_its_end() {
    for (status, right) in [(Some(0), true), (Some(1), false), (None, false)] {
        let mut prompts = asking("sudo -v");
        answer(&mut prompts, "[sudo] password for admin: ", "pw\n");
        assert_eq!(prompts.exited(PID, status), told(Program::Sudo, "admin", "pw", right));
    }
}

#[test]
fn a_password_through_a_pipe_is_its_first_line() {
    let mut prompts = asking("sudo -S -p  sh");
    assert_eq!(prompts.read(PID, Place::Standard, b"admin123\necho more\n"), None);
    assert_eq!(prompts.executed(PID, "/bin/sh", &words("sh")), told(Program::Sudo, "", "admin123", true));
}

#[test]
fn a_login_asks_for_the_user_each_time() {
    let mut prompts = asking("login -p -h _gateway");
    let name = |prompts: &mut Prompts, user: &str| {
        assert_eq!(prompts.wrote(PID, b"srv login: "), None);
        prompts.read(PID, Place::Terminal, user.as_bytes())
    };
    assert_eq!(name(&mut prompts, "root\n"), None);
    answer(&mut prompts, "Password: ", "bad\n");
    assert_eq!(prompts.wrote(PID, b"\nLogin incorrect\n"), told(Program::Login, "root", "bad", false));
    assert_eq!(name(&mut prompts, "admin\n"), None);
    answer(&mut prompts, "Password: ", "\n");
    // Not even a complaint, in another language.
    assert_eq!(name(&mut prompts, "admin\n"), told(Program::Login, "admin", "", false));
    answer(&mut prompts, "Password: ", "admin123\n");
    prompts.forked(PID, 301);
    assert_eq!(
        prompts.executed(301, "/bin/bash", &words("-bash")),
        told(Program::Login, "admin", "admin123", true)
    );
}

#[test]
fn users_are_found_among_the_options() {
    for (program, command, user) in [
        (Program::Su, "su", Some("root")),
        (Program::Su, "su -", Some("root")),
        (Program::Su, "su -c id -s /bin/sh admin", Some("admin")),
        (Program::Su, "su --command id -l -- admin", Some("admin")),
        (Program::Su, "su --shell=/bin/sh -m admin -c id", Some("admin")),
        (Program::Su, "su -c", Some("root")),
        (Program::Login, "/bin/login -p -h 10.0.0.1", None),
        (Program::Login, "login -h 10.0.0.1 -f admin", Some("admin")),
        (Program::Sudo, "sudo -u admin id", None),
    ] {
        assert_eq!(program.user(&words(command)).as_deref(), user, "{command}");
    }
    assert_eq!(Program::Su.user(&[]).as_deref(), Some("root"));
}

#[test]
fn what_lies_is_bounded() {
    let mut prompts = Prompts::default();
    for pid in 0..10_000 {
        prompts.executed(pid, "/tmp/su", &[]);
        prompts.forked(1, 20_000 + pid);
        prompts.forked(20_000 + pid, 40_000 + pid);
    }
    assert_eq!((prompts.asking.len(), prompts.heirs.len()), (PROMPTS_MAX, HEIRS_MAX));
    for _ in 0..1000 {
        prompts.wrote(1, &[0xff; 4096]);
        prompts.read(1, Place::Standard, &[b'a'; 4096]);
        prompts.terminal_set(1, &[0; 3]);
    }
    let prompt = &prompts.asking[&1];
    assert_eq!((prompt.said.len(), prompt.typed.len()), (SAID_BYTES_MAX, TEXT_BYTES_MAX));
    // One call tells one guess, whatever it brings.
    assert!(prompts.read(1, Place::Standard, &b"\n".repeat(100_000)).is_none());
    assert_eq!(prompts.exited(1, Some(0)).unwrap().2.password.len(), TEXT_BYTES_MAX);
    assert!(prompts.heirs.is_empty());
}

#[test]
fn others_are_not_asked() {
    let mut prompts = Prompts::default();
    prompts.executed(PID, "/bin/sh", &words("sh"));
    assert_eq!(prompts.read(PID, Place::Terminal, b"x\n"), None);
    assert_eq!(prompts.wrote(PID, b"Login incorrect"), None);
    assert_eq!(prompts.exited(PID, Some(0)), None);
    assert!(!prompts.has(PID));
}
