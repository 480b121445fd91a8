//! What the stations find out about a request, and the audit event that is made of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderValue, Request, StatusCode, Uri, header};

use crate::attributes::{Checks, is_interactive};
use crate::audit::{
    Audit, AuditId, Decision, Event, EventRate, EventStage, Holder, ObjectRef, Slot, StreamEnd,
};
use crate::authn::{CredentialKind, Identity};
use crate::authz::Permit;
use crate::error::RequestError;
use crate::forward;
use crate::metrics::RequestLabels;

/// A request's record. Its place in the audit queue is reserved before anything is forwarded; if the request
/// is cancelled, dropping the record writes the event.
pub(crate) struct Record {
    place: Place,
    facts: Box<Facts>,
}

/// A request's place in the audit queue.
enum Place {
    /// None is reserved: no user is known, or there was none for an anonymous one.
    Unreserved,
    /// It is reserved for the user.
    Reserved(Slot),
    /// The event is written, or was dropped for want of a place.
    Done,
}

/// The record of a stream that is open; it has a second event at its end.
pub(crate) struct StreamRecord {
    facts: Box<Facts>,
    status: StatusCode,
}

#[derive(Clone)]
struct Facts {
    audit: Audit,
    id: AuditId,
    node_name: Arc<str>,
    peer: SocketAddr,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    client_audit_id: Option<HeaderValue>,
    received: SystemTime,
    verb: Option<&'static str>,
    subresource: Option<&'static str>,
    interactive: bool,
    identity: Option<Identity>,
    decision: Option<Decision>,
    reason: Option<Arc<str>>,
    stale: Option<&'static str>,
    failure: Option<RequestError>,
    panicked: bool,
}

impl Record {
    /// The record of a request whose head has just been read.
    pub(crate) fn begin<B>(
        audit: &Audit,
        node_name: &Arc<str>,
        peer: SocketAddr,
        request: &Request<B>,
    ) -> Self {
        let headers = request.headers();
        let facts = Facts {
            audit: audit.clone(),
            id: AuditId::random(),
            node_name: node_name.clone(),
            peer,
            uri: request.uri().clone(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            client_audit_id: headers.get("audit-id").cloned(),
            received: SystemTime::now(),
            verb: None,
            subresource: None,
            // Until the path is decoded. If it cannot be, this is all that is known of it.
            interactive: is_interactive(request.uri().path()),
            identity: None,
            decision: None,
            reason: None,
            stale: None,
            failure: None,
            panicked: false,
        };
        Self {
            place: Place::Unreserved,
            facts: Box::new(facts),
        }
    }

    /// Notes what the request asks for.
    pub(crate) fn set_checks(&mut self, checks: &Checks) {
        self.facts.verb = Some(checks.verb().as_str());
        self.facts.subresource = checks
            .subresources()
            .first()
            .map(|subresource| subresource.as_str());
        self.facts.interactive = checks.interactive();
    }

    /// Notes the user that sent the request, and reserves the event's place in the queue. In blocking mode
    /// this waits for room.
    pub(crate) async fn set_identity(&mut self, identity: &Identity) {
        self.facts.identity = Some(identity.clone());
        self.facts.stale = identity.is_stale().then_some("TokenReview");
        let (audit, holder) = (&self.facts.audit, self.facts.holder());
        self.place = if audit.is_blocking() {
            Place::Reserved(Box::pin(audit.reserve_blocking(holder)).await)
        } else if holder == Holder::User {
            audit.reserve().map_or(Place::Done, Place::Reserved)
        } else {
            audit
                .try_reserve(holder)
                .map_or(Place::Unreserved, Place::Reserved)
        };
    }

    /// Notes that the request is allowed, and why.
    pub(crate) fn set_permit(&mut self, permit: &Permit) {
        self.facts.subresource = Some(permit.subresource().as_str());
        self.facts.decision = Some(Decision::Allow);
        self.facts.reason = Some(permit.reason().clone());
        self.facts.stale = permit.stale();
    }

    /// Notes where and why the gate ended it.
    pub(crate) fn set_error(&mut self, error: &RequestError) {
        if error.status == StatusCode::FORBIDDEN {
            self.facts.decision = Some(Decision::Forbid);
        }
        self.facts.failure = Some(error.clone());
    }

    /// Notes that a station panicked: the event's stage is `Panic`.
    pub(crate) fn set_panicked(&mut self) {
        self.facts.panicked = true;
    }

    /// The labels of the request's metric.
    pub(crate) fn labels(&self, status: StatusCode) -> RequestLabels {
        RequestLabels {
            subresource: self.facts.subresource.unwrap_or("none"),
            verb: self.facts.verb.unwrap_or("none"),
            code: status.as_u16(),
            decision: self.facts.outcome(),
        }
    }

    /// Writes the event, now that the response is decided. In blocking mode this waits
    /// until the event is written.
    pub(crate) async fn answered(mut self, status: StatusCode) {
        let stage = if self.facts.panicked {
            EventStage::Panic
        } else {
            EventStage::ResponseComplete
        };
        let place = self.place.take();
        self.facts.write(place, stage, Some(status), None).await;
    }

    /// Writes the first of a stream's two events.
    pub(crate) async fn stream_started(mut self, status: StatusCode) -> StreamRecord {
        let place = self.place.take();
        self.facts
            .write(place, EventStage::ResponseStarted, Some(status), None)
            .await;
        StreamRecord {
            facts: self.facts.clone(),
            status,
        }
    }
}

impl Drop for Record {
    /// Writes the event of a request whose client left before there was a response: it has no status.
    fn drop(&mut self) {
        let place = self.place.take();
        let event = || self.facts.event(EventStage::ResponseComplete, None, None);
        match place {
            Place::Done => {}
            Place::Reserved(slot) => slot.write(&event()),
            // The user is known, and the client left while the request waited for a place.
            Place::Unreserved if self.facts.holder() == Holder::User => {
                if let Some(slot) = self.facts.audit.reserve() {
                    slot.write(&event());
                }
            }
            Place::Unreserved => self.facts.audit.write_unreserved_now(&event()),
        }
    }
}

impl Place {
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Done)
    }
}

impl StreamRecord {
    /// Writes the second event. `why` is the refusal, or the failed review, for which the gate ended it.
    pub(crate) async fn ended(mut self, end: forward::StreamEnd, why: Option<RequestError>) {
        self.facts.failure = why;
        let audit = &self.facts.audit;
        let place = if audit.is_blocking() {
            Place::Reserved(audit.reserve_blocking(self.facts.holder()).await)
        } else {
            audit.reserve().map_or(Place::Done, Place::Reserved)
        };
        self.facts
            .write(place, EventStage::ResponseComplete, Some(self.status), Some(end))
            .await;
    }
}

impl Facts {
    async fn write(
        &self,
        place: Place,
        stage: EventStage,
        status: Option<StatusCode>,
        end: Option<forward::StreamEnd>,
    ) {
        let event = self.event(stage, status, end);
        let written = match place {
            Place::Done => Ok(()),
            Place::Reserved(slot) if self.audit.is_blocking() => slot.write_and_wait(&event).await,
            Place::Reserved(slot) => {
                slot.write(&event);
                Ok(())
            }
            // Boxed, like everything rare: the future of every request stays small.
            Place::Unreserved => Box::pin(self.audit.write_unreserved(&event)).await,
        };
        if let Err(error) = written {
            tracing::error!(
                error = crate::error::chain(&error),
                "an audit event was not written"
            );
        }
    }

    /// A credential has shown who the user is. An anonymous user may be any stranger.
    fn is_authenticated(&self) -> bool {
        let identity = self.identity.as_ref();
        identity.is_some_and(|identity| identity.credential() != CredentialKind::Anonymous)
    }

    fn holder(&self) -> Holder {
        if self.is_authenticated() {
            Holder::User
        } else {
            Holder::Stranger
        }
    }

    /// What became of the request, in one word.
    fn outcome(&self) -> &'static str {
        match (self.decision, &self.failure) {
            (Some(Decision::Allow), _) => "allow",
            (Some(Decision::Forbid), _) => "forbid",
            (None, Some(error)) => error.reason,
            (None, None) => "none",
        }
    }

    fn rate(&self) -> EventRate {
        let is_notable = self.identity.is_some()
            || self.interactive
            || self.panicked
            || self.failure.as_ref().is_some_and(RequestError::is_notable);
        if self.interactive && self.decision == Some(Decision::Allow) {
            EventRate::Unlimited
        } else if self.is_authenticated() {
            EventRate::User
        } else if is_notable {
            EventRate::Notable
        } else {
            EventRate::Stranger
        }
    }

    fn event(
        &self,
        stage: EventStage,
        status: Option<StatusCode>,
        end: Option<forward::StreamEnd>,
    ) -> Event<'_> {
        Event {
            id: self.id,
            rate: self.rate(),
            outcome: self.outcome(),
            stage,
            request_uri: self
                .uri
                .path_and_query()
                .map_or(b"", |target| target.as_str().as_bytes()),
            verb: self.verb.unwrap_or(""),
            user: self.identity.as_ref().map(Identity::json),
            peer: self.peer.ip(),
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
            object: self.subresource.map(|subresource| ObjectRef {
                node: &self.node_name,
                subresource,
            }),
            code: status.map(|status| status.as_u16()),
            received: self.received,
            stage_time: SystemTime::now(),
            decision: self.decision,
            reason: self.reason.as_deref(),
            stale: self.stale,
            client_audit_id: self.client_audit_id.as_ref().map(HeaderValue::as_bytes),
            error: self.failure.as_ref().map(RequestError::inside_text),
            station: self.failure.as_ref().map(|error| error.station),
            stream: end.map(|end| StreamEnd {
                bytes_received: end.received,
                bytes_sent: end.sent,
                ended_by: end.by.as_str(),
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::{self, AuditCommands, AuditMode, AuditSink, AuditStrangers};

    /// Seen red: with the stage of a panic left at `ResponseComplete`.
    #[tokio::test]
    async fn a_panic_has_a_stage_of_its_own_in_the_audit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let settings = settings::Audit {
            sink: AuditSink::File(path.clone()),
            mode: AuditMode::Batch,
            commands: AuditCommands::Hash,
            strangers: AuditStrangers::Summarised,
            rotation: None,
        };
        let (audit, thread) = Audit::start(&settings, 8).unwrap();
        let peer = "192.0.2.7:40000".parse().unwrap();
        let request = Request::get("/pods").body(()).unwrap();
        for panicked in [true, false] {
            let mut record = Record::begin(&audit, &"worker-1".into(), peer, &request);
            if panicked {
                record.set_panicked();
            }
            record.answered(StatusCode::INTERNAL_SERVER_ERROR).await;
        }
        thread.shutdown(Duration::from_secs(10)).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let stages: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|event| event["stage"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(stages, ["Panic", "ResponseComplete"]);
    }
}
