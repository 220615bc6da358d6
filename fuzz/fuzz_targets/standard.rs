#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailslot::properties::standard_body(data));
