use http::HeaderMap;

/// The trailers of a response whose body has been read to its end, among its extensions. Empty
/// where there were none.
///
/// `HttpClient` puts them there, and `GrpcOutcome` looks for them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "a name for a map of headers")]
pub struct Trailers(pub HeaderMap);
