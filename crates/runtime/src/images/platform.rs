//! Platforms: what a node can run and what an image is for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::manifest::null_default;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default, deserialize_with = "null_default")]
    pub os: String,
    #[serde(default, deserialize_with = "null_default")]
    pub architecture: String,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// From `os/architecture[/variant]`, in any of the usual spellings.
    pub fn parse(text: &str) -> Option<Platform> {
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next()?, parts.next()?, parts.next().unwrap_or(""));
        (parts.next().is_none() && !os.is_empty() && !architecture.is_empty())
            .then(|| Platform::new(os, architecture, variant))
    }

    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("aarch64", other) => ("arm64", other),
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64", other) => ("amd64", other),
            ("i386" | "i486" | "i586" | "i686", other) => ("386", other),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Platform { os: os.to_ascii_lowercase(), architecture: architecture.into(), variant: variant.into() }
    }

    /// This machine's, from what the kernel calls it (`uname -m`): a 32-bit ARM program on a 64-bit kernel runs ARM images.
    pub fn host(machine: &str) -> Platform {
        match std::env::consts::ARCH {
            "arm" => {
                let variant = match machine {
                    m if m.starts_with("armv5") => "v5",
                    m if m.starts_with("armv6") => "v6",
                    m if m.starts_with("armv8") || m.starts_with("aarch64") => "v8",
                    _ => "v7",
                };
                Platform::new("linux", "arm", variant)
            }
            other => Platform::new("linux", other, ""),
        }
    }

    pub(crate) fn normalised(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }

    /// How well an image of `other` (normalised) runs on this platform: 0 is exact, more is older, `None` does not run.
    pub fn rank(&self, other: &Platform) -> Option<u32> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        let level = |variant: &str, base: u32| match variant {
            "" => Some(base),
            v => v.strip_prefix('v').and_then(|digits| digits.split('.').next()?.parse::<u32>().ok()),
        };
        match self.architecture.as_str() {
            "arm" => level(&self.variant, 7)?.checked_sub(level(&other.variant, 7)?),
            "amd64" => level(&self.variant, 1)?.checked_sub(level(&other.variant, 1)?),
            "arm64" => level(&self.variant, 8)?.checked_sub(level(&other.variant, 8)?),
            _ if other.variant.is_empty() || self.variant == other.variant => Some(0),
            _ => None,
        }
    }

    /// Attestations ride in indexes as images for no platform.
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}
