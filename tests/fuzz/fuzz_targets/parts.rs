//! Parts of datagram frames: whatever comes in whatever order, memory is bounded by what was received and by the stated
//! limits, and what is rebuilt has the length that its parts spoke of. The input is frames; each byte before a frame is a
//! step of time in 16 ms.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ghostwire::wire::datagram::FRAME_MAX;
use ghostwire::wire::frame::{self, Frame};
use ghostwire::wire::parts::Assembler;

#[expect(clippy::disallowed_methods, reason = "an epoch for made-up time")]
pub fn run(data: &[u8]) {
    let mut now = Instant::now();
    let (mut assembler, mut input, mut received) = (Assembler::default(), Bytes::copy_from_slice(data), 0);
    while let Some((step, _)) = input.split_first() {
        now += Duration::from_millis(16) * u32::from(*step);
        bytes::Buf::advance(&mut input, 1);
        let Ok(Some(Frame::Part(part))) = frame::take(&mut input) else { return };
        received += part.bytes.len();
        let total = part.total;
        if let Some(whole) = assembler.take(part, now) {
            assert_eq!(whole.len() as u64, total);
        }
        assert!(assembler.bytes() <= received && assembler.bytes() <= 17 * FRAME_MAX);
    }
}
