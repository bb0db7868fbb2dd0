//! Rate control: whatever a peer reports and whenever, the rate stays between its bounds and time goes on.

use std::time::{Duration, Instant};

use ghostwire::rate::{Controller, Meter, Profile, State, meter};
use ghostwire::wire::rate::{Report, Stamp};

pub fn run(mut data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "the epoch: only differences to it are ever used")]
    let mut now = Instant::now();
    let params = Profile::Balanced.params();
    let bounds = params.min.bps() / 8..=params.max.bps() / 8;
    let mut controller = Controller::new(params, None, now);
    let mut meter = Meter::new(meter::Params::default(), now);
    controller.on_backlog(true, now);
    while let Some((&op, rest)) = data.split_first() {
        data = rest;
        now += Duration::from_micros(u64::from(op) * u64::from(op));
        match op % 4 {
            0 => {
                let stamp = controller.on_sent(1_400, now);
                meter.on_stamp(&stamp, Duration::ZERO, false, now + Duration::from_millis(20));
            }
            1 => {
                let Some(report) = Report::take(&mut data) else { return };
                controller.on_report(&report, now);
            }
            2 => {
                let Some(stamp) = Stamp::take(&mut data) else { return };
                meter.on_stamp(&stamp, Duration::ZERO, true, now);
            }
            _ => {
                if let Some(report) = meter.poll_report(now) {
                    assert!(meter.poll_timeout().is_none_or(|due| due > now), "one report for what came");
                    controller.on_report(&report, now);
                }
            }
        }
        if controller.poll_timeout().is_some_and(|due| due <= now) {
            controller.handle_timeout(now);
            assert!(controller.poll_timeout().is_none_or(|due| due > now), "a timeout that stays due");
        }
        if controller.state() == State::Near {
            // It is left to the links' own congestion control, which believes no report.
            assert_eq!((controller.rate(), controller.window()), (u64::MAX, u64::MAX));
            continue;
        }
        assert!(bounds.contains(&controller.rate()), "rate {}", controller.rate());
        let window = controller.window();
        assert!((1_400..1 << 62).contains(&window), "window {window}");
    }
}
