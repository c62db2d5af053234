//! Time and chance as arguments, so that every test is exact.

use rand::TryRng as _;
use rustix::time::{ClockId, clock_gettime};

/// A time or a span in microseconds; wall times count from the unix epoch.
pub type Micros = i64;

/// One second in [`Micros`].
pub const SECOND: Micros = 1_000_000;

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, in microseconds since the unix epoch. It may step.
    fn wall(&self) -> Micros;

    /// A clock that never steps, in microseconds. It may stand still while the machine is suspended; reading it is
    /// cheap.
    fn monotonic(&self) -> Micros {
        self.boottime()
    }

    /// A clock that never steps and goes on while the machine is suspended (CLOCK_BOOTTIME), in microseconds.
    fn boottime(&self) -> Micros;
}

/// The machine's own clocks.
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

/// The machine's clocks, but the wall clock steps by up to a day, forwards and backwards, four times a second.
#[cfg(feature = "faults")]
#[derive(Debug, Default, Clone, Copy)]
pub struct SteppingClock(SystemClock);

#[cfg(feature = "faults")]
impl Clock for SteppingClock {
    fn wall(&self) -> Micros {
        let quarter = self.0.boottime() / (SECOND / 4);
        // Any mixing of bits will do.
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

/// Where chance comes from.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `out` with random bytes fit for secrets.
    fn fill(&self, out: &mut [u8]);
}

/// The operating system's random source.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        rand::rngs::SysRng
            .try_fill_bytes(out)
            .expect("the operating system gives random bytes; without them no secret can be made");
    }
}
