//! `honeynet up`: from a honeynet file to decoys that answer. What a failed step had begun is taken back.

use std::io::IsTerminal;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use decoys::recipe::Recipe;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::domains::{self, Printer, print};
use super::golden::Golden;
use super::{Connection, Failure};
use crate::doctor;
use crate::domain_file::vif::format_mac;
use crate::honeynet_file::{self, Decoy, HoneynetFile};
use crate::password;
use crate::state::State;
use crate::supervisor::protocol::{Create, Request};

/// How long a decoy may take until it answers at its first port.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// What udev calls the first interface of a domain (systemd.net-naming-scheme(7), since v253; Debian's v252 has it as well).
const INTERFACE: &str = "enX0";
/// How often it is asked.
const ANSWER_INTERVAL: Duration = Duration::from_millis(100);

/// A decoy and what it is made from.
struct Machine<'a> {
    decoy: &'a Decoy,
    recipe: Option<Recipe>,
    domain_file: String,
    folder: PathBuf,
}

/// Brings everything up; what is up already stays as it is.
pub fn up(state: &State, path: &Path, out: &Printer) -> Result<(), Failure> {
    let file = read(path)?;
    for check in [doctor::root(), doctor::kvm()] {
        if let Some(remedy) = check.remedy {
            return Err(Failure::new(format!("{} {}: {remedy}", check.what, check.found)));
        }
    }
    let folder = std::path::absolute(path)?.parent().map(Path::to_owned).unwrap_or_default();
    state.make(state.root())?;
    let steps = Steps::new();
    install_missing(&steps)?;
    let machines = build(state, &file, &folder, &steps)?;

    let was_up = Connection::try_open(state)?.is_some();
    let mut connection = Connection::open_or_start(state, path)?;
    let mut created = Vec::new();
    for machine in &machines {
        let started = match machine.decoy.pool {
            Some(_) => open_pool(state, &file, &mut connection, machine, &steps),
            None => {
                steps.begin(&format!("domain {}", machine.decoy.name));
                start(&mut connection, machine)
            }
        };
        match started {
            // Its machine has gone already.
            Ok(_) if machine.decoy.pool.is_some() => {}
            Ok(true) => created.push(machine.decoy.name.clone()),
            Ok(false) => {}
            Err(failure) => {
                steps.end();
                take_back(state, &mut connection, &created, was_up);
                return Err(failure);
            }
        }
    }
    let silent = wait_for_answers(&file, &machines, &steps)?;
    steps.end();
    for sentence in &silent {
        eprintln!("honeynet: warning: {sentence}");
    }
    let info = connection.request(&Request::Info)?;
    let password = password::take_first(state)?;
    report(&file, &machines, &info, password.as_deref(), out)
}

/// Reads the honeynet file; its errors name it.
pub fn read(path: &Path) -> Result<HoneynetFile, Failure> {
    let named = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    honeynet_file::parse(&text).map_err(|error| named(&error))
}

fn install_missing(steps: &Steps) -> Result<(), Failure> {
    let missing = doctor::missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    steps.begin(&format!("packages: {}", missing.join(" ")));
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "--no-install-recommends"]).args(&missing);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("it does not say why");
    Err(Failure::new(format!("apt-get cannot install {}: {last}", missing.join(" "))))
}

/// Kernel and images, from the cache where they are there already.
fn build<'a>(
    state: &State,
    file: &'a HoneynetFile,
    folder: &Path,
    steps: &Steps,
) -> Result<Vec<Machine<'a>>, Failure> {
    let kernel = match file.decoys.iter().any(|decoy| decoy.recipe.is_some()) {
        true => Some(decoys::kernel::fetch(state.root(), steps)?),
        false => None,
    };
    let mut machines = Vec::new();
    for decoy in &file.decoys {
        let machine = match (&decoy.recipe, &decoy.domain, &kernel) {
            (Some(name), _, Some(kernel)) => {
                let path = recipe_path(file, folder, name)?;
                let recipe = Recipe::load(&path)?;
                let recipe_folder = path.parent().unwrap_or(folder);
                steps.begin(&format!("image {name}"));
                let image = decoys::image::build(&recipe, recipe_folder, kernel, state.root(), steps)?;
                let domain_file = recipe_domain(file, decoy, &kernel.vmlinux, &image);
                Machine { decoy, recipe: Some(recipe), domain_file, folder: folder.to_owned() }
            }
            (_, Some(path), _) => {
                let path = folder.join(path);
                let text = std::fs::read_to_string(&path);
                let text = text.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
                // The honeynet file's word on name and address goes before the domain file's own.
                let text = format!("{text}\nname = \"{}\"\nhn_address = \"{}\"\n", decoy.name, decoy.address);
                let folder = path.parent().unwrap_or(folder).to_owned();
                Machine { decoy, recipe: None, domain_file: text, folder }
            }
            _ => return Err(Failure::new(format!("decoy {} has neither recipe nor domain", decoy.name))),
        };
        machines.push(machine);
    }
    Ok(machines)
}

fn recipe_path(file: &HoneynetFile, folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let recipes = folder.join(file.recipes.as_deref().unwrap_or(Path::new("decoys/recipes")));
    let candidates = [recipes.join(format!("{name}.toml")), recipes.join(name).join("recipe.toml")];
    let found = candidates.iter().find(|path| path.is_file()).cloned();
    found.ok_or_else(|| Failure::new(format!("there is no recipe {name} in {}", recipes.display())))
}

/// The domain file of a decoy that a recipe made. Four words spare its start a second: a kernel need not take the LOCK prefixes out of
/// itself (`noreplace-smp`), nor try its ciphers (`cryptomgr.notests`), nor wipe each page that it hands out (`init_on_alloc=0`), which
/// also leaves more behind for whoever reads the memory later, nor hide its secrets from its own users (`mitigations=off`): what keeps domains
/// apart is the host's.
fn recipe_domain(file: &HoneynetFile, decoy: &Decoy, kernel: &Path, image: &decoys::image::Image) -> String {
    let network = &file.network;
    // Linux Documentation/admin-guide/nfs/nfsroot.rst: ip=<client>::<gateway>:<netmask>:<hostname>:<device>:<autoconf>.
    let ip =
        format!("ip={}::{}:{}::{INTERFACE}:none", decoy.address, network.gateway, network.subnet.netmask());
    format!(
        "name = \"{name}\"\nmemory = {memory}\nvcpus = {vcpus}\nkernel = \"{kernel}\"\nramdisk = \"{ramdisk}\"\n\
         root = \"/dev/xvda rw\"\nextra = \"console=hvc0 quiet noreplace-smp cryptomgr.notests init_on_alloc=0 mitigations=off {ip}\"\n\
         vif = [ \"mac={mac},ip={address}\" ]\ndisk = [ \"{disk},raw,xvda,w\" ]\n\
         on_crash = \"coredump-restart\"\nhn_layer = 1\nhn_recipe = \"{recipe}\"\nhn_address = \"{address}\"\n",
        name = decoy.name,
        memory = decoy.memory,
        vcpus = decoy.vcpus,
        kernel = kernel.display(),
        ramdisk = image.initramfs.display(),
        mac = format_mac(decoy.mac_bytes()),
        address = decoy.address,
        disk = image.path.display(),
        recipe = decoy.recipe.as_deref().unwrap_or(""),
    )
}

/// Opens the pool behind a decoy's address; false where it is open already.
fn open_pool(
    state: &State,
    file: &HoneynetFile,
    connection: &mut Connection,
    machine: &Machine,
    steps: &Steps,
) -> Result<bool, Failure> {
    let golden = Golden {
        decoy: machine.decoy,
        domain_file: &machine.domain_file,
        folder: &machine.folder,
        service: service(machine),
    };
    let answering = |service| Ok(netwatch::netns::within(&file.network.namespace, || answers(service))?);
    golden.open(state, connection, answering, |step| steps.begin(step))
}

/// The first port by which a decoy tells that it has booted.
fn service(machine: &Machine) -> Option<SocketAddr> {
    let of_recipe = machine.recipe.as_ref().and_then(|recipe| recipe.ports.first().copied());
    let port = of_recipe.or_else(|| machine.decoy.publish.first().map(|publish| publish.port));
    Some(SocketAddr::from((machine.decoy.address, port?)))
}

/// Creates a domain; false where it is there already.
fn start(connection: &mut Connection, machine: &Machine) -> Result<bool, Failure> {
    let rows = connection.request(&Request::List { name: None })?;
    let mut rows = rows.as_array().into_iter().flatten();
    if rows.any(|row| row["name"] == machine.decoy.name.as_str()) {
        return Ok(false);
    }
    let create = Create { file: machine.domain_file.clone(), folder: machine.folder.clone(), paused: false };
    connection.request(&Request::Create(create))?;
    Ok(true)
}

fn take_back(state: &State, connection: &mut Connection, created: &[String], was_up: bool) {
    if !was_up {
        // Its own words matter less than why we are here.
        let _ = domains::take_down(state);
        return;
    }
    for name in created {
        let _ = connection.request(&Request::Destroy { name: name.clone() });
    }
}

/// Waits until each decoy answers at its first port; answers a sentence for each that does not.
fn wait_for_answers(
    file: &HoneynetFile,
    machines: &[Machine],
    steps: &Steps,
) -> Result<Vec<String>, Failure> {
    let mut silent = Vec::new();
    // A pool's machine has answered before; who asked again would get a clone.
    for machine in machines.iter().filter(|machine| machine.decoy.pool.is_none()) {
        let Some(service) = service(machine) else { continue };
        steps.begin(&format!("{} answers at {service}", machine.decoy.name));
        let answers = netwatch::netns::within(&file.network.namespace, || answers(service))?;
        if !answers {
            let seconds = ANSWER_TIMEOUT.as_secs();
            silent
                .push(format!("decoy {} does not answer at {service} after {seconds} s", machine.decoy.name));
        }
    }
    Ok(silent)
}

fn answers(service: SocketAddr) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < ANSWER_TIMEOUT {
        if TcpStream::connect_timeout(&service, Duration::from_secs(1)).is_ok() {
            return true;
        }
        std::thread::sleep(ANSWER_INTERVAL);
    }
    false
}

fn report(
    file: &HoneynetFile,
    machines: &[Machine],
    info: &Value,
    password: Option<&str>,
    out: &Printer,
) -> Result<(), Failure> {
    let dashboard = info["dashboard"].as_str();
    let decoys: Vec<Value> = machines
        .iter()
        .map(|machine| {
            let publish: Vec<String> = machine.decoy.publish.iter().map(ToString::to_string).collect();
            json!({ "name": machine.decoy.name, "address": machine.decoy.address, "publish": publish })
        })
        .collect();
    let attacks = attacks(file, machines);
    if out.json {
        return out.done(
            &json!({ "dashboard": dashboard, "password": password, "decoys": decoys, "attacks": attacks }),
        );
    }
    let mut text = String::new();
    if let Some(address) = dashboard {
        let password = password.unwrap_or("(as printed at the first start)");
        text.push_str(&format!("dashboard  {address}  password {password}\n"));
    }
    for decoy in decoys {
        let publish: Vec<&str> =
            decoy["publish"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (name, address) = (decoy["name"].as_str().unwrap_or(""), decoy["address"].as_str().unwrap_or(""));
        text.push_str(&format!("decoy      {name}  {address}  {}\n", publish.join("  ")));
    }
    text.push_str("attack it:\n");
    attacks.iter().for_each(|attack| text.push_str(&format!("  {attack}\n")));
    print(&text)
}

/// Commands that a newcomer may try, made from what is there.
fn attacks(file: &HoneynetFile, machines: &[Machine]) -> Vec<String> {
    let mut attacks = Vec::new();
    for machine in machines {
        for publish in &machine.decoy.publish {
            let (host, port) = (publish.listen.ip(), publish.listen.port());
            match publish.port {
                22 => {
                    let user = machine.recipe.as_ref().and_then(|recipe| recipe.users.first());
                    let login = user.map_or("root", |user| user.name.as_str());
                    let weak = user.map_or(String::new(), |user| format!("   # password: {}", user.password));
                    attacks.push(format!("ssh -p {port} {login}@{host}{weak}"));
                }
                80 => {
                    attacks.push(format!("curl 'http://{host}:{port}/index.php?page=../../../../etc/passwd'"))
                }
                other => attacks.push(format!("nc {host} {port}   # port {other} of {}", machine.decoy.name)),
            }
        }
    }
    if let Some(machine) = machines.first() {
        attacks.push(format!("ip netns exec {} nmap -sT {}", file.network.namespace, machine.decoy.address));
    }
    attacks
}

/// Shows the step that is being done: a spinner on a terminal, a line elsewhere.
pub struct Steps {
    bar: ProgressBar,
    terminal: bool,
}

impl Steps {
    fn new() -> Steps {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(100) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Steps { bar, terminal }
    }

    fn begin(&self, name: &str) {
        self.bar.reset();
        self.bar.set_message(name.to_owned());
        if !self.terminal {
            eprintln!("honeynet: {name}");
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl decoys::progress::Progress for Steps {
    fn step(&self, name: &str) {
        self.begin(name);
    }

    fn percent(&self, percent: u8) {
        self.bar.set_position(u64::from(percent));
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {bar:30} {percent} % {elapsed}") {
            self.bar.set_style(style);
        }
    }
}
