//! The symbols of Debian's kernel, from the same cache as that of decoys, against what its own bytes say.
#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not by their folder")]

use std::path::Path;
use std::sync::LazyLock;

use decoys::progress::Silent;
use honeyvmm::kernel_image::KernelImage;
use introspect::symbols::segments::Segments;
use introspect::symbols::{Symbols, SymbolsCache};

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
    for symbol in symbols.symbols().filter(|symbol| symbol.address >= text && symbol.address < last) {
        let (name, offset) = symbols.nearest(symbol.address).unwrap();
        assert_eq!(offset, 0, "{}", symbol.name);
        assert!(
            name == symbol.name || symbols.symbols().any(|s| s.name == name && s.address == symbol.address)
        );
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
fn a_kernel_is_decoded_once_a_process() {
    let image = KernelImage::parse(&KERNEL).unwrap();
    let mut cache = SymbolsCache::default();
    let first = cache.of_kernel(&image).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &cache.of_kernel(&image).unwrap()));
}
