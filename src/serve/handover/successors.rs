//! What the gate hears of the processes that have handed over and still leave.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::super::instance::Instance;
use super::super::leaving::Leaving;
use super::channel::Channel;

/// The most processes that leave at the same time.
pub(super) const MOST_LEAVING: usize = 2;
