//! Variable-length integers: what was read can be written, and never in more bytes than it came in.

use ghostwire::wire::varint;

pub fn run(data: &[u8]) {
    let mut input = data;
    while let Some(value) = {
        let before = input.len();
        let value = varint::take(&mut input);
        if value.is_none() {
            assert_eq!(input.len(), before, "input was consumed although nothing was read");
        }
        value.map(|value| (value, before - input.len()))
    } {
        let (value, taken) = value;
        assert!(value <= varint::MAX);
        assert!(varint::len(value) <= taken, "{value} came in {taken} bytes");
        let mut out = Vec::new();
        varint::put(&mut out, value);
        assert_eq!(out.len(), varint::len(value));
        assert_eq!(varint::take(&mut out.as_slice()), Some(value));
    }
}
