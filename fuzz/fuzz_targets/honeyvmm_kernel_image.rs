//! A kernel image is taken apart without a panic, and what is found lies inside.
#![no_main]

use honeyvmm::kernel_image::KernelImage;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = KernelImage::parse(bytes) else { return };
    for segment in image.segments() {
        assert_eq!(image.segment_bytes(segment).len(), segment.file.len());
    }
    let _ = image.banner();
    let _ = image.end();
});
