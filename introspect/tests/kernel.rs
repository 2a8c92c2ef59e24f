//! The symbols of Debian's kernel, from the same cache as that of decoys, against what its own bytes say.
#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not by their folder")]

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

use decoys::progress::Silent;
use honeyvmm::kernel_image::KernelImage;
use introspect::symbols::isf::Isf;
use introspect::symbols::segments::Segments;
use introspect::symbols::{Symbols, SymbolsCache};
use serde_json::{Value, json};

static KERNEL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let home = std::env::var_os("HOME").unwrap();
    let kernel = decoys::kernel::fetch(&Path::new(&home).join(".cache/honeynet"), &Silent).unwrap();
    std::fs::read(kernel.vmlinux).unwrap()
});

fn symbols() -> Symbols {
    Symbols::of_kernel(&KernelImage::parse(&KERNEL).unwrap()).unwrap()
}

#[test]
fn addresses_point_at_what_their_names_say() {
    let image = KernelImage::parse(&KERNEL).unwrap();
    let symbols = symbols();
    let segments = Segments::of_kernel(&image);
    let bytes = |name| segments.from(symbols.address(name).unwrap()).unwrap();
    assert!(bytes("linux_banner").starts_with(symbols.banner().as_bytes()));
    assert!(bytes("__start_BTF").starts_with(&[0x9f, 0xeb, 1, 0]));
    assert!(symbols.banner().starts_with("Linux version "));
    assert_eq!(symbols.build_id(), image.build_id().unwrap());
    assert_eq!(symbols.address("no_such_symbol"), None);
}

#[test]
fn every_address_leads_back_to_the_first_symbol_there() {
    let symbols = symbols();
    assert!(symbols.symbols().len() > 80_000);
    let last = symbols.address("_end").unwrap();
    let text = symbols.address("_text").unwrap();
    let kernel = symbols.symbols().filter(|symbol| symbol.address >= text && symbol.address < last);
    let mut first = kernel.clone().next().unwrap();
    for symbol in kernel {
        if symbol.address != first.address {
            first = symbol;
        }
        assert_eq!(symbols.nearest(symbol.address), Some((first.name, 0)));
    }
    assert_eq!(symbols.nearest(last), None);
    assert_eq!(symbols.nearest(honeyvmm::memory::Gva(0x40_0000)), None);
}

#[test]
fn per_cpu_variables_are_offsets_and_no_addresses() {
    let symbols = symbols();
    let current = symbols.percpu("current_task").or_else(|| symbols.percpu("pcpu_hot")).unwrap();
    assert_eq!(current % 8, 0);
    assert_eq!(symbols.address("cpu_tss_rw"), None);
    assert!(symbols.percpu("cpu_tss_rw").is_some());
    assert_eq!(symbols.percpu("init_task"), None);
}

#[test]
fn layouts_are_found_by_name_and_path() {
    let symbols = symbols();
    assert!(symbols.layouts().is_ok());
    let tasks = symbols.member("task_struct", "tasks").unwrap();
    assert_eq!(Some(tasks.bytes), symbols.size_of("list_head"));
    let next = symbols.member("task_struct", "tasks.prev").unwrap();
    assert_eq!((next.offset, next.bytes), (tasks.offset + 8, 8));
    assert_eq!(symbols.member("task_struct", "comm").unwrap().bytes, 16);
    // A pointer is not followed.
    assert!(symbols.member("task_struct", "mm").is_some());
    assert_eq!(symbols.member("task_struct", "mm.pgd"), None);
    // In an anonymous struct of its own since long.
    assert!(symbols.member("mm_struct", "pgd").unwrap().offset > 0);
    // A bitfield, and what shares its word.
    let bits = symbols.member("task_struct", "in_execve").unwrap().bits.unwrap();
    assert_eq!(bits.count, 1);
    assert_eq!(symbols.enumerator("PIDTYPE_TGID"), Some(1));
    assert_eq!(symbols.enumerator("no_such_constant"), None);
    assert_eq!(symbols.size_of("long unsigned int"), Some(8));
    assert_eq!(symbols.size_of("atomic64_t"), Some(8));
}

#[test]
fn volatility_gets_every_name_type_and_the_banner() {
    let symbols = symbols();
    let isf = Isf::new(&symbols).unwrap();
    let mut json = Vec::new();
    isf.write(&mut json).unwrap();
    let value: Value = serde_json::from_slice(&json).unwrap();
    let names = symbols.symbols().map(|symbol| symbol.name).collect::<HashSet<_>>();
    let listed = value["symbols"].as_object().unwrap();
    assert!(names.iter().all(|name| listed.contains_key(*name)));
    assert_eq!(listed["init_task"]["address"], symbols.address("init_task").unwrap().0);
    assert_eq!(listed["init_task"]["type"], json!({ "kind": "struct", "name": "task_struct" }));
    assert_eq!(listed["kallsyms_num_syms"]["type"]["name"], "unsigned int");
    assert!(listed["linux_banner"]["constant_data"].as_str().unwrap().starts_with("TGludXggdmVyc2lvbiA"));
    let task = &value["user_types"]["task_struct"];
    assert_eq!(task["size"], symbols.size_of("task_struct").unwrap());
    assert_eq!(task["fields"]["comm"]["offset"], symbols.member("task_struct", "comm").unwrap().offset);
    // Whatever is referred to is there.
    let mut left = vec![&value["user_types"], &value["symbols"]];
    while let Some(one) = left.pop() {
        let Some(map) = one.as_object() else { continue };
        if let (Some(kind), Some(name)) = (map.get("kind").and_then(Value::as_str), map.get("name")) {
            let table = match kind {
                "base" => "base_types",
                "enum" => "enums",
                _ => "user_types",
            };
            assert!(value[table].get(name.as_str().unwrap()).is_some(), "{one}");
        }
        left.extend(map.values());
    }
    let mut packed = Vec::new();
    isf.write_xz(&mut packed).unwrap();
    let mut unpacked = Vec::new();
    lzma_rust2::XzReader::new(packed.as_slice(), false).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, json);
}

#[test]
fn nothing_is_hidden_from_introspection() {
    assert_eq!(symbols().gaps(), []);
}

#[test]
fn a_kernel_is_decoded_once_a_process() {
    let image = KernelImage::parse(&KERNEL).unwrap();
    let mut cache = SymbolsCache::default();
    let first = cache.of_kernel(&image).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &cache.of_kernel(&image).unwrap()));
}

#[test]
fn the_random_state_is_a_key_a_generation_and_a_hash() {
    let symbols = symbols();
    let ranges = symbols.random_state().unwrap();
    let bytes: Vec<u64> = ranges.iter().map(|range| range.end.0 - range.start.0).collect();
    assert_eq!(bytes, [32, 8, 32], "ChaCha's key, a counter, BLAKE2s' chaining value");
    // The key is no longer where an image says what it is at boot, so it lies in data, not in text.
    let data = symbols.address("_sdata").unwrap();
    assert!(ranges.iter().all(|range| range.start >= data));
    let base = symbols.address("base_crng").unwrap();
    assert_eq!(ranges[0].start, base);
}
