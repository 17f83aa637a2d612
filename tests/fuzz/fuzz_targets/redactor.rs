#![no_main]

use kin_broker::fuzzing::Target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    Target::Redactor.takes(bytes);
});
