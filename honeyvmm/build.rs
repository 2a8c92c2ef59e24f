//! Builds the shim (`shim/`: freestanding C and assembly) for both backends, as a flat image and a list of its symbols.
//!
//! Not Rust, because no soft-float target of rustc is to be had from a distribution: the shim must leave the guest's vector registers
//! alone, and rustc's host target uses them for copies.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const SOURCES: [&str; 5] = ["traps", "mmu", "hypercall", "privileged", "trace"];
/// Set, the shim is built without its trace: what the bench measures the trace against.
const WITHOUT_TRACE: &str = "HONEYNET_SHIM_WITHOUT_TRACE";
const BACKENDS: [(&str, &str); 2] = [("pvm", "BACKEND_PVM"), ("hw", "BACKEND_HARDWARE")];
const CFLAGS: [&str; 14] = [
    "-O2",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-stack-protector",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-mfsgsbase",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-fno-strict-aliasing",
    "-Wall",
    "-Werror",
];
const SYMBOLS: [&str; 16] = [
    "vmm_call",
    "resume",
    "restore",
    "window_begin",
    "window_end",
    "gate_exit",
    "gate_exit_fast",
    "gate_call",
    "gate_page_fault",
    "gate_user",
    "user_entries",
    "kernel_entries",
    "page_fault_entry",
    "entries",
    "irq_entry",
    "main_top",
];
const STACK_SYMBOLS: [&str; 4] = ["trap_top", "ist_top", "fatal_top", "stack0_top"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed={WITHOUT_TRACE}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    BACKENDS.iter().try_for_each(|(name, define)| build(name, define, &out))
}

fn build(name: &str, define: &str, out: &Path) -> Result<(), Box<dyn Error>> {
    let define = format!("-D{define}");
    let mut objects = Vec::new();
    for source in SOURCES.iter().map(|s| format!("{s}.c")).chain([format!("entry_{name}.S")]) {
        let object = out.join(format!("{source}.{name}.o"));
        let mut gcc = Command::new("gcc");
        gcc.args(env::var_os(WITHOUT_TRACE).map(|_| "-DWITHOUT_TRACE"));
        gcc.arg(&define).args(CFLAGS).arg("-c").arg(format!("shim/{source}")).arg("-o").arg(&object);
        run(&mut gcc)?;
        objects.push(object);
    }
    let elf = out.join(format!("shim_{name}.elf"));
    run(Command::new("ld").args(["-z", "noexecstack", "-T", "shim/shim.ld", "-o"]).arg(&elf).args(&objects))?;
    run(Command::new("objcopy").args(["-O", "binary"]).arg(&elf).arg(out.join(format!("shim_{name}.bin"))))?;
    let listing = run(Command::new("nm").arg(&elf))?;
    Ok(fs::write(out.join(format!("shim_{name}.rs")), symbols(&listing))?)
}

/// A Rust expression of type `Symbols`, from `nm`'s listing. What a backend lacks is 0.
fn symbols(listing: &str) -> String {
    let address = |wanted: &str| {
        listing.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?;
            (words.nth(1)? == wanted).then(|| address.to_owned())
        })
    };
    let fields: String = SYMBOLS
        .iter()
        .chain(&STACK_SYMBOLS)
        .map(|symbol| format!("{symbol}: 0x{}, ", address(symbol).unwrap_or_else(|| "0".into())))
        .collect();
    format!("Symbols {{ {fields} }}")
}

fn run(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output =
        command.output().map_err(|e| format!("cannot run {command:?}: {e} (Debian: gcc, binutils)"))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
