//! Where samples come from.

use super::Signal;
use crate::Error;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{fs, io, time::Duration};
use tokio::{net::TcpStream, time::timeout};

const STATS: &str = "/api/v1/memory/stats";
const METRICS: &str = "/metrics";

/// A service that takes longer to answer cannot be tested.
const TIMEOUT: Duration = Duration::from_secs(10);

/// No answer may be longer.
const MAX_BYTES: usize = 16 << 20;

/// What was read at a time, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reading {
    /// See [`Signal::Tracked`].
    pub tracked: Option<u64>,
    /// See [`Signal::WorkingSet`].
    pub working_set: Option<u64>,
    /// See [`Signal::Resident`].
    pub resident: Option<u64>,
}

/// What is read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source {
    /// A process of this machine.
    Process {
        /// Its number.
        pid: u32,
    },
    /// A service that tells of itself.
    Service {
        /// Where it does, without the path.
        url: Uri,
        /// The token that it asks for.
        token: Option<String>,
    },
}

// === impl Reading ===

impl Reading {
    /// A reading of nothing else.
    #[must_use]
    pub fn resident(bytes: u64) -> Self {
        Self {
            resident: Some(bytes),
            ..Self::default()
        }
    }

    /// What was read of a signal.
    #[must_use]
    pub const fn bytes(&self, signal: Signal) -> Option<u64> {
        match signal {
            Signal::Tracked => self.tracked,
            Signal::WorkingSet => self.working_set,
            Signal::Resident => self.resident,
        }
    }

    /// What `/api/v1/memory/stats` tells of the process.
    fn of_stats(body: &[u8]) -> Option<Self> {
        let stats: Value = serde_json::from_slice(body).ok()?;
        let process = stats.get("process").unwrap_or(&stats);
        let bytes = |key: &str| {
            let value = process.get(key)?;
            value.as_u64().or_else(|| whole(value.as_f64()?))
        };
        Self {
            tracked: bytes("tracked"),
            working_set: bytes("working_set"),
            resident: bytes("resident"),
        }
        .if_any()
    }

    /// What a scrape for Prometheus tells of the process.
    fn of_metrics(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let resident = text.lines().find_map(|line| {
            let rest = line.strip_prefix("process_resident_memory_bytes")?;
            // Labels, if there are any.
            let rest = match rest.strip_prefix('{') {
                Some(labels) => labels.split_once('}')?.1,
                None => rest,
            };
            whole(rest.split_whitespace().next()?.parse().ok()?)
        });
        Some(Self::resident(resident?))
    }

    /// What `/proc/<pid>/status` tells.
    fn of_status(status: &str) -> Option<Self> {
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib = resident.trim().strip_suffix("kB")?.trim().parse::<u64>();
        Some(Self::resident(kib.ok()? << 10))
    }

    fn if_any(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

fn whole(number: f64) -> Option<u64> {
    (number.is_finite() && number >= 0.0).then_some(number as u64)
}

// === impl Source ===

impl Source {
    /// Reads what there is now.
    ///
    /// # Errors
    ///
    /// When it is not there, or does not tell.
    pub async fn read(&self) -> Result<Reading, Error> {
        match self {
            Self::Process { pid } => read_process(*pid),
            Self::Service { url, token } => {
                let reading = timeout(TIMEOUT, read_service(url, token.as_deref()));
                let late = |_| format!("{url} did not answer within {TIMEOUT:?}");
                reading.await.map_err(late)?
            }
        }
    }
}

fn read_process(pid: u32) -> Result<Reading, Error> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            format!("there is no process {pid}, or no /proc")
        } else {
            format!("/proc/{pid}/status: {error}")
        }
    })?;
    // One that has ended and is not waited for holds nothing.
    let reading = Reading::of_status(&status);
    reading.ok_or_else(|| format!("process {pid} has no memory of its own").into())
}

async fn read_service(url: &Uri, token: Option<&str>) -> Result<Reading, Error> {
    let (status, body) = get(url, STATS, token).await?;
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        return Err(format!("{url} answers {status} to {STATS}: is --token right?").into());
    }
    if status.is_success()
        && let Some(reading) = Reading::of_stats(&body)
    {
        return Ok(reading);
    }
    let (status, body) = get(url, METRICS, token).await?;
    let reading = Reading::of_metrics(&body).filter(|_| status.is_success());
    reading.ok_or_else(|| {
        format!("{url} tells the memory of its process neither by {STATS} nor by {METRICS}").into()
    })
}

async fn get(url: &Uri, path: &str, token: Option<&str>) -> Result<(StatusCode, Bytes), Error> {
    if url.scheme_str() != Some("http") {
        return Err(format!("{url} does not begin with http://").into());
    }
    let authority = url.authority().ok_or("the URL has no host")?;
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority.port_u16().unwrap_or(80);
    let unreachable = |error| format!("cannot connect to {authority}: {error}");
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(unreachable)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = format!("{}{path}", url.path().trim_end_matches('/'));
    let mut request = Request::get(path).header(header::HOST, authority.as_str());
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BYTES).collect().await?.to_bytes();
    connection.abort();
    Ok((head.status, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, routing};
    use http::{HeaderMap, HeaderValue};
    use tokio::{net::TcpListener, runtime};

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(future)
    }

    async fn serve(router: Router) -> Source {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        Source::Service {
            url: url.parse().unwrap(),
            token: None,
        }
    }

    #[test]
    fn what_a_service_tells_of_its_memory_is_read() {
        let stats = br#"{"process": {"tracked": 5, "resident": 7e3, "working_set": null}}"#;
        let reading = Reading::of_stats(stats).unwrap();
        let read = Signal::ALL.map(|signal| reading.bytes(signal));
        assert_eq!(read, [Some(5), None, Some(7_000)]);
        assert_eq!(
            Reading::of_stats(br#"{"resident": 1}"#),
            Some(Reading::resident(1))
        );
        for other in [
            "{}",
            r#"{"process": {"resident": -1}}"#,
            "<html>",
            "[1]",
            "",
        ] {
            assert_eq!(Reading::of_stats(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_scrape_will_do() {
        for scrape in [
            "# HELP\nprocess_resident_memory_bytes 1.5e6\n",
            "process_resident_memory_bytes{job=\"a b\"} 1500000 17000\n",
        ] {
            let reading = Reading::of_metrics(scrape.as_bytes());
            assert_eq!(reading, Some(Reading::resident(1_500_000)));
        }
        for other in [
            "process_resident_memory_bytes_max 3\n",
            "process_resident_memory_bytes NaN",
            "",
        ] {
            assert_eq!(Reading::of_metrics(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_process_is_read() {
        let status = "Name:\tx\nVmRSS:\t    1024 kB\nThreads: 1\n";
        assert_eq!(Reading::of_status(status), Some(Reading::resident(1 << 20)));
        assert_eq!(Reading::of_status("Name:\tzombie\n"), None);
        if cfg!(target_os = "linux") {
            let own = Source::Process {
                pid: std::process::id(),
            };
            assert!(run(own.read()).unwrap().resident > Some(100_000));
        }
        let none = Source::Process { pid: u32::MAX };
        let error = run(none.read()).unwrap_err().to_string();
        assert!(error.contains("there is no process"), "{error}");
    }

    #[test]
    fn a_service_is_asked_with_the_token_and_a_scrape_is_the_second_choice() {
        run(async {
            let stats = |headers: HeaderMap| async move {
                let token = headers.get("authorization").map(HeaderValue::as_bytes);
                match token {
                    Some(b"Bearer secret") => Ok(r#"{"process": {"tracked": 9}}"#),
                    _ => Err(StatusCode::UNAUTHORIZED),
                }
            };
            let mut source = serve(Router::new().route(STATS, routing::get(stats))).await;
            let error = source.read().await.unwrap_err().to_string();
            assert!(error.contains("is --token right?"), "{error}");
            let Source::Service { token, .. } = &mut source else {
                panic!("it is a service");
            };
            *token = Some("secret".to_owned());
            assert_eq!(source.read().await.unwrap().tracked, Some(9));

            let scrape = || async { "process_resident_memory_bytes 4096\n" };
            let source = serve(Router::new().route(METRICS, routing::get(scrape))).await;
            assert_eq!(source.read().await.unwrap(), Reading::resident(4_096));

            let source = serve(Router::new()).await;
            let error = source.read().await.unwrap_err().to_string();
            assert!(error.contains("neither by"), "{error}");
        });
    }

    #[test]
    fn who_cannot_be_reached_is_named() {
        for (url, says) in [
            ("http://127.0.0.1:1", "cannot connect to 127.0.0.1:1"),
            ("https://127.0.0.1:1", "does not begin with http://"),
            ("/metrics", "does not begin with http://"),
        ] {
            let source = Source::Service {
                url: url.parse().unwrap(),
                token: None,
            };
            let error = run(source.read()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
