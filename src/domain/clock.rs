//! Time and randomness, passed as arguments so that tests control both.

use std::time::Duration;

use rand::TryRng as _;
use rustix::time::{ClockId, clock_gettime};

/// A point in time or a duration in microseconds. Wall-clock times count from the Unix epoch.
pub type Micros = i64;

/// One second in [`Micros`].
pub const SECOND: Micros = 1_000_000;

/// A duration in [`Micros`], saturating.
pub fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock, in microseconds since the Unix epoch. It may step.
    fn wall(&self) -> Micros;

    /// A clock that never steps, in microseconds. It may stop while the machine is suspended. Cheap to read.
    fn monotonic(&self) -> Micros {
        self.boottime()
    }

    /// A clock that never steps and keeps running while the machine is suspended (`CLOCK_BOOTTIME`), in microseconds.
    fn boottime(&self) -> Micros;
}

/// The operating system's clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Micros {
        read(ClockId::Realtime)
    }

    fn monotonic(&self) -> Micros {
        read(ClockId::Monotonic)
    }

    fn boottime(&self) -> Micros {
        read(ClockId::Boottime)
    }
}

fn read(id: ClockId) -> Micros {
    let now = clock_gettime(id);
    now.tv_sec * SECOND + now.tv_nsec / 1_000
}

/// The operating system's clocks, except that the wall clock steps by up to a day in either direction four times a
/// second.
#[cfg(feature = "faults")]
#[derive(Debug, Default, Clone, Copy)]
pub struct SteppingClock(SystemClock);

#[cfg(feature = "faults")]
impl Clock for SteppingClock {
    fn wall(&self) -> Micros {
        let quarter = self.0.boottime() / (SECOND / 4);
        // The steps only have to look random, so any mixing function is sufficient.
        let step = quarter.wrapping_mul(0x1e37_79b9_7f4a_7c15) >> 16;
        self.0.wall() + step % (86_400 * SECOND)
    }

    fn monotonic(&self) -> Micros {
        self.0.monotonic()
    }

    fn boottime(&self) -> Micros {
        self.0.boottime()
    }
}

/// A source of random bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `out` with cryptographically secure random bytes.
    fn fill(&self, out: &mut [u8]);
}

/// The operating system's random number generator.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::expect_used, reason = "a secret with fewer random bytes would be worse than none")]
    fn fill(&self, out: &mut [u8]) {
        rand::rngs::SysRng
            .try_fill_bytes(out)
            .expect("the operating system provides random bytes; without them no secret can be generated");
    }
}
