//! Types of the kernel's globals, which BTF does not have: those that Volatility's Linux plugins ask for.

use honeyvmm::memory::Gva;
use serde_json::{Value, json};

use super::Isf;
use crate::symbols::btf::{Type, TypeId};
use crate::symbols::kallsyms::{Symbol, Tables};

/// The longest array that is believed, in bytes: `mem_section` and the hash tables are pointers, so nothing is large.
const ARRAY_BYTES_MAX: u64 = 1 << 20;

/// How a global is made of its type.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// `T x`.
    One,
    /// `T *x`.
    Pointer,
    /// `T x[]`; its length is how far the next symbol is.
    Array,
    /// `T *x[]`.
    Pointers,
}
use Shape::{Array, One, Pointer, Pointers};

const LONG: &str = "long unsigned int";

/// Globals by shape and type, as kernel/, mm/, net/ and drivers/ of Linux 5.10 to 6.12 declare them. A name or type that a kernel does not
/// have is passed over.
const GLOBALS: &[(Shape, &str, &[&str])] = &[
    (One, "task_struct", &["init_task"]),
    (One, "mm_struct", &["init_mm"]),
    (One, "files_struct", &["init_files"]),
    (One, "fs_struct", &["init_fs"]),
    (One, "cred", &["init_cred"]),
    (One, "nsproxy", &["init_nsproxy"]),
    (One, "signal_struct", &["init_signals"]),
    (One, "sighand_struct", &["init_sighand"]),
    (One, "pid_namespace", &["init_pid_ns"]),
    (One, "user_namespace", &["init_user_ns"]),
    (One, "uts_namespace", &["init_uts_ns"]),
    (One, "ipc_namespace", &["init_ipc_ns"]),
    (One, "net", &["init_net"]),
    (One, "task_group", &["root_task_group"]),
    (
        One,
        "list_head",
        &[
            "modules",
            "net_namespace_list",
            "tty_drivers",
            "bpf_kallsyms",
            "ftrace_mod_maps",
            "ftrace_ops_trampoline_list",
            "super_blocks",
            "slab_caches",
            "vmap_area_list",
            "ptype_all",
            "usb_bus_list",
        ],
    ),
    (Array, "list_head", &["ptype_base", "inetsw", "inetsw6"]),
    (One, "rb_root", &["vmap_area_root"]),
    (One, "mod_tree_root", &["mod_tree"]),
    (Pointer, "kset", &["module_kset"]),
    (One, LONG, &["module_addr_min", "module_addr_max"]),
    (One, LONG, &["page_offset_base", "vmalloc_base", "vmemmap_base", "phys_base", "jiffies"]),
    (Array, LONG, &["__per_cpu_offset"]),
    (One, "cpumask", &["__cpu_online_mask", "__cpu_possible_mask", "__cpu_present_mask"]),
    (One, "unsigned int", &["nr_cpu_ids", "log_buf_len"]),
    (One, "int", &["cap_last_cap", "num_registered_fb", "console_printk", "panic_on_oops"]),
    (Array, "char", &["_text", "_stext", "_etext", "_sinittext", "_einittext", "_end", "linux_proc_banner"]),
    (Pointer, "char", &["log_buf", "saved_command_line"]),
    (Array, "char", &["boot_command_line"]),
    (Pointer, "printk_ringbuffer", &["prb"]),
    (One, "printk_ringbuffer", &["printk_rb_static"]),
    (One, "tk_data", &["tk_core"]),
    (Array, "gate_struct", &["idt_table"]),
    (Pointers, "()", &["sys_call_table", "ia32_sys_call_table", "x32_sys_call_table"]),
    (One, "atomic_notifier_head", &["keyboard_notifier_list", "panic_notifier_list"]),
    (One, "blocking_notifier_head", &["reboot_notifier_list"]),
    (One, "resource", &["iomem_resource", "ioport_resource"]),
    (Pointers, "fb_info", &["registered_fb"]),
    (Pointers, "pglist_data", &["node_data"]),
    (Pointer, "page", &["mem_map"]),
    (Pointers, "mem_section", &["mem_section"]),
    (One, "idr", &["prog_idr", "map_idr", "link_idr"]),
    (Pointer, "ftrace_ops", &["ftrace_ops_list"]),
    (One, "ftrace_ops", &["ftrace_list_end", "global_ops"]),
    // The pointers are relative: `tracepoint_ptr_t` is an int where CONFIG_HAVE_ARCH_PREL32_RELOCATIONS is on.
    (Array, "int", &["__start___tracepoints_ptrs", "__stop___tracepoints_ptrs"]),
    (Array, "taint_flag", &["taint_flags"]),
    (One, "inet_hashinfo", &["tcp_hashinfo", "dccp_hashinfo"]),
    (One, "udp_table", &["udp_table", "udplite_table"]),
    (One, "raw_hashinfo", &["raw_v4_hashinfo", "raw_v6_hashinfo"]),
    (One, "tcp_seq_afinfo", &["tcp4_seq_afinfo", "tcp6_seq_afinfo"]),
    (
        One,
        "udp_seq_afinfo",
        &["udp4_seq_afinfo", "udp6_seq_afinfo", "udplite4_seq_afinfo", "udplite6_seq_afinfo"],
    ),
    (One, "dentry_operations", &["sockfs_dentry_operations"]),
    (One, "file_operations", &["socket_file_ops"]),
    (Pointer, "file_system_type", &["file_systems"]),
    (Pointer, "hlist_head", &["mount_hashtable", "inode_hashtable"]),
    (Pointer, "hlist_bl_head", &["dentry_hashtable"]),
    (One, "security_hook_heads", &["security_hook_heads"]),
];

/// Endings of names whose type is clear.
const ENDINGS: &[(&str, &str)] = &[("_seq_ops", "seq_operations"), ("_fops", "file_operations")];

/// The descriptor of a global's type, where it is known.
pub(super) fn type_of(isf: &Isf<'_>, symbol: &Symbol<'_>) -> Option<Value> {
    let known = GLOBALS.iter().find(|(_, _, names)| names.contains(&symbol.name));
    let ending = || ENDINGS.iter().find(|(ending, _)| symbol.name.ends_with(ending));
    let (shape, type_name) = match known {
        Some((shape, type_name, _)) => (*shape, *type_name),
        None => (One, ending()?.1),
    };
    if type_name == "()" {
        let pointer = json!({ "kind": "pointer", "subtype": { "kind": "function" } });
        return Some(array(isf, symbol, pointer, 8));
    }
    // Before it had a name, `tk_core` was an unnamed struct.
    let id = isf
        .btf
        .find_type(type_name)
        .or_else(|| (symbol.name == "tk_core").then(|| unnamed(isf, &["seq", "timekeeper"])).flatten())?;
    let one = json!(isf.descriptor(id));
    let pointer = |one: Value| json!({ "kind": "pointer", "subtype": one });
    Some(match shape {
        One => one,
        Pointer => pointer(one),
        Array => array(isf, symbol, one, isf.btf.bytes_of(id)?),
        Pointers => array(isf, symbol, pointer(one), 8),
    })
}

fn array(isf: &Isf<'_>, symbol: &Symbol<'_>, one: Value, bytes: u64) -> Value {
    let next = isf.symbols.kallsyms().next_address(symbol.address);
    let room = next.map_or(0, |next| next.0 - symbol.address.0);
    let count = if room <= ARRAY_BYTES_MAX { room / bytes.max(1) } else { 0 };
    json!({ "kind": "array", "count": count, "subtype": one })
}

/// The first struct without a tag that has just these members.
fn unnamed(isf: &Isf<'_>, names: &[&str]) -> Option<TypeId> {
    let mut types = isf.btf.types();
    types.find_map(|(id, found)| match found {
        Type::Composite { name: "", members, .. } if members.len() == names.len() => {
            members.iter().map(|member| member.name).eq(names.iter().copied()).then_some(id)
        }
        _ => None,
    })
}

/// The tables of kallsyms as symbols, typed as `kernel/kallsyms_internal.h` declares them.
pub(super) fn tables(tables: &Tables) -> impl Iterator<Item = (&'static str, Gva, Value)> {
    let base = |name: &str| json!({ "kind": "base", "name": name });
    let array = |name: &str, count: u32| json!({ "kind": "array", "count": count, "subtype": base(name) });
    let all = [
        ("kallsyms_offsets", Some(tables.offsets), array("int", 0)),
        ("kallsyms_relative_base", tables.relative_base, base(LONG)),
        ("kallsyms_num_syms", Some(tables.num_syms), base("unsigned int")),
        ("kallsyms_names", Some(tables.names), array("unsigned char", 0)),
        ("kallsyms_markers", Some(tables.markers), array("unsigned int", 0)),
        ("kallsyms_seqs_of_names", tables.seqs, array("unsigned char", 0)),
        ("kallsyms_token_table", Some(tables.token_table), array("char", 0)),
        ("kallsyms_token_index", Some(tables.token_index), array("short unsigned int", 256)),
    ];
    all.into_iter().filter_map(|(name, address, known)| Some((name, address?, known)))
}
