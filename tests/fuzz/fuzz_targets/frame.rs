//! Frames: any bytes are frames or an error, both readers agree on where a frame ends, and a frame that was read is
//! written and read again as the same.

use bytes::Bytes;
use ghostwire::wire::frame::{self, Frame, FrameError};

pub fn run(data: &[u8]) {
    lengths_agree(data);
    let mut input = Bytes::copy_from_slice(data);
    let mut frames = 0;
    loop {
        match frame::take(&mut input) {
            Ok(Some(frame)) => {
                frames += 1;
                assert!(frames <= data.len(), "more frames than bytes");
                survives_a_round_trip(&frame);
            }
            Ok(None) => break,
            Err(FrameError::TooLong { len, max, .. }) => return assert!(len > max as u64),
            Err(FrameError::Truncated | FrameError::Malformed { .. }) => return,
        }
    }
    assert!(input.is_empty());
}

/// Walks over `data` by `frame_len` alone: a frame it calls whole is never cut short for `take`.
fn lengths_agree(mut data: &[u8]) {
    while !data.is_empty() {
        let Ok(Some(len)) = frame::frame_len(data) else { return };
        assert!((1..=data.len()).contains(&len));
        let mut whole = Bytes::copy_from_slice(&data[..len]);
        match frame::take(&mut whole) {
            Ok(_) => assert!(whole.is_empty(), "{} bytes left of a whole frame", whole.len()),
            Err(error) => {
                assert!(matches!(error, FrameError::Malformed { .. } | FrameError::TooLong { .. }), "{error}")
            }
        }
        data = &data[len..];
    }
}

fn survives_a_round_trip(frame: &Frame) {
    let mut out = Vec::new();
    frame::put(&mut out, frame);
    assert_eq!(frame::frame_len(&out), Ok(Some(out.len())), "{frame:?}");
    let mut again = Bytes::from(out);
    let second = frame::take(&mut again);
    assert!(again.is_empty());
    // A reason may hold what is not UTF-8 and is then replaced by longer characters, so it may be cut on the way out.
    match (frame, second) {
        (
            Frame::Reset { reason: a, .. } | Frame::Close { reason: a, .. } | Frame::Withdraw { uplink: a },
            Ok(Some(Frame::Reset { reason: b, .. } | Frame::Close { reason: b, .. } | Frame::Withdraw { uplink: b })),
        ) => {
            assert!(a.starts_with(&b), "{a:?} became {b:?}");
        }
        (frame, second) => assert_eq!(second.as_ref(), Ok(&Some(frame.clone()))),
    }
}
