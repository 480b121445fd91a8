//! When the files are looked at: by the clock, and on SIGHUP.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::super::instance::Instance;
use super::super::notify::Notifier;
use crate::files;
use crate::looks::{SETTLE, Trigger};
use crate::repeats;

/// Every file is looked at again after this time. A change is found after it, and taken up after [`SETTLE`];
/// where a new configuration names new files, those settle after it. Together that is less than 10 s.
const LOOK: Duration = Duration::from_secs(4);
/// After this time without an end, reading is reported. It goes on.
const SLOW: Duration = Duration::from_secs(10);
/// The log lines that were held back are reported after this time.
const REPEATS: Duration = Duration::from_secs(10);

/// Looks at the files by the clock, and on SIGHUP, which also reopens the audit file.
pub(crate) fn keep_reloading(
    instance: Arc<Instance>,
    notifier: Notifier,
) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        let wanted = Notify::new();
        let hear = async {
            loop {
                hangup.recv().await;
                tracing::info!("SIGHUP: reading the files again");
                instance.gate.audit.reopen();
                // Signals that come during a reload are one more reload.
                wanted.notify_one();
            }
        };
        tokio::join!(
            hear,
            reload_forever(&instance, &wanted, &notifier),
            report_repeats()
        );
    })
}

async fn reload_forever(instance: &Arc<Instance>, wanted: &Notify, notifier: &Notifier) {
    let mut pause = LOOK;
    loop {
        let trigger = tokio::select! {
            biased;
            () = wanted.notified() => Trigger::Signal,
            () = sleep(pause) => Trigger::Clock,
        };
        if trigger == Trigger::Signal {
            notifier.reloading();
        }
        let looking = instance.clone();
        let mut reading = pin!(files::aside(move || looking.look(trigger)));
        let read = match timeout(SLOW, &mut reading).await {
            Ok(read) => read,
            Err(_) => {
                tracing::warn!(
                    "the files that the configuration names have been read for {SLOW:?} without an end; the \
                     last good ones stay in force. Is one of them on a file system that does not answer?"
                );
                // The gate serves: systemd must not wait.
                notifier.ready();
                reading.await
            }
        };
        if trigger == Trigger::Signal {
            notifier.ready();
        }
        pause = match read {
            Ok(true) => SETTLE,
            Ok(false) => LOOK,
            Err(error) => {
                tracing::warn!(%error, "the files cannot be read again");
                LOOK
            }
        };
    }
}

/// Reports the log lines that were held back, also while a reload waits for a file.
async fn report_repeats() {
    let mut clock = interval_at(Instant::now() + REPEATS, REPEATS);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        repeats::report();
    }
}
