//! Congestion control in closed loop.

use super::super::*;
use super::sim::*;

fn params(congestion: Congestion) -> Params {
    Params { congestion, ..Params::default() }
}

#[test]
fn table() {
    for cc in [Congestion::Cubic, Congestion::Bbr, Congestion::Rate] {
        for (mbit, delay, loss) in [
            (50.0, 150, 0.0),
            (50.0, 150, 0.01),
            (50.0, 150, 0.03),
            (50.0, 150, 0.05),
            (100.0, 150, 0.0),
            (100.0, 150, 0.01),
            (100.0, 150, 0.03),
        ] {
            let world = World::new(&[Path::new(mbit, delay, loss)], &[Flow::new(params(cc))], 1);
            let r = world.run(40);
            let (mean, max) = r.queue_ms(10.0, 40.0);
            println!(
                "{cc:?} {mbit} Mbit {delay}ms {loss}: goodput {:.1} start(0-5s) {:.1} queue mean {mean:.0} max {max:.0} ms all-max {:.0} drops {} / {}",
                r.mbit(0, 10.0, 40.0),
                r.mbit(0, 0.0, 5.0),
                r.queue_ms(0.0, 40.0).1,
                r.dropped(0.0, 10.0),
                r.dropped(10.0, 40.0)
            );
        }
    }
}
