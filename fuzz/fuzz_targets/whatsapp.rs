#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailslot::properties::whatsapp_body(data));
