//! A device's refusal.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The device refused to make an object, or failed while it ran or was read back.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeviceError {
    /// The label of the object.
    pub what: String,
    /// The message of wgpu or of the driver.
    pub message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl DeviceError {
    /// Without an error of wgpu behind it.
    pub(crate) fn new(what: &str, message: impl Into<String>) -> Self {
        Self { what: what.to_owned(), message: message.into(), source: None }
    }

    /// From an error of wgpu, which stays its [`source`](StdError::source).
    pub(crate) fn from_source(what: &str, source: impl StdError + Send + Sync + 'static) -> Self {
        let (what, message) = (what.to_owned(), source.to_string());
        Self { what, message, source: Some(Arc::new(source)) }
    }
}

impl fmt::Debug for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceError")
            .field("what", &self.what)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the device refused {}: {}", self.what, self.message)
    }
}

impl StdError for DeviceError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Equal where object and message are.
impl PartialEq for DeviceError {
    fn eq(&self, other: &Self) -> bool {
        (&self.what, &self.message) == (&other.what, &other.message)
    }
}

impl Eq for DeviceError {}
