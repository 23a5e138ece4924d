//! Compressed clusters.

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate, which the format calls zlib.
    #[default]
    Deflate,
    /// Zstandard.
    Zstd,
}

/// Binary logarithm of the window that the format allows deflate: other programs inflate with no larger one.
const DEFLATE_WINDOW_BITS: u8 = 12;

/// The data of a cluster, compressed; `None` if that saves no byte.
pub fn compress(method: Compression, cluster: &[u8]) -> Option<Vec<u8>> {
    let most = cluster.len().saturating_sub(1);
    match method {
        Compression::Deflate => {
            let level = flate2::Compression::default();
            let mut deflate = Compress::new_with_window_bits(level, false, DEFLATE_WINDOW_BITS);
            let mut compressed = vec![0; most];
            let status = deflate.compress(cluster, &mut compressed, FlushCompress::Finish).ok()?;
            compressed.truncate(deflate.total_out() as usize);
            (status == Status::StreamEnd).then_some(compressed)
        }
        Compression::Zstd => {
            let mut compressed = vec![0; most];
            let length = zstd::bulk::compress_to_buffer(cluster, &mut compressed, 0).ok()?;
            compressed.truncate(length);
            Some(compressed)
        }
    }
}

/// Decompresses a cluster of `bytes` bytes. What follows the compressed data in `compressed` does not matter.
///
/// # Errors
/// What is wrong with the data.
pub(super) fn decompress(method: Compression, compressed: &[u8], bytes: usize) -> Result<Vec<u8>, String> {
    let mut cluster = vec![0; bytes];
    let length = match method {
        Compression::Deflate => {
            let mut inflate = Decompress::new(false);
            inflate
                .decompress(compressed, &mut cluster, FlushDecompress::Finish)
                .map_err(|error| error.to_string())?;
            inflate.total_out()
        }
        Compression::Zstd => decompress_zstd(compressed, &mut cluster)? as u64,
    };
    match length == bytes as u64 {
        true => Ok(cluster),
        false => Err(format!("it ends after {length} of {bytes} bytes")),
    }
}

/// Decompresses the first frame, and no more than fits.
fn decompress_zstd(compressed: &[u8], cluster: &mut [u8]) -> Result<usize, String> {
    use zstd::stream::raw::{Decoder, Operation};
    let mut decoder = Decoder::new().map_err(|error| error.to_string())?;
    let (mut read, mut written) = (0, 0);
    while let (Some(input), Some(output)) = (compressed.get(read..), cluster.get_mut(written..)) {
        let step = decoder.run_on_buffers(input, output).map_err(|error| error.to_string())?;
        read = step.bytes_read.saturating_add(read);
        written = step.bytes_written.saturating_add(written);
        let is_stuck = step.bytes_read == 0 && step.bytes_written == 0;
        if step.remaining == 0 || is_stuck || written == cluster.len() {
            break;
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Compression; 2] = [Compression::Deflate, Compression::Zstd];

    #[test]
    fn what_was_compressed_comes_back() {
        let cluster: Vec<u8> = (0..65536u32).map(|at| (at / 100) as u8).collect();
        for method in BOTH {
            let mut compressed = compress(method, &cluster).unwrap();
            assert!(compressed.len() < 4096);
            compressed.extend([7; 300]);
            assert_eq!(decompress(method, &compressed, 65536).unwrap(), cluster);
        }
    }

    #[test]
    fn what_does_not_shrink_is_not_compressed() {
        use sha2::{Digest, Sha256};
        let noise: Vec<u8> = (0..128u32).flat_map(|at| Sha256::digest(at.to_be_bytes())).collect();
        assert!(BOTH.iter().all(|method| compress(*method, &noise).is_none()));
    }

    #[test]
    fn damaged_and_short_data_is_an_error() {
        let cluster = [1; 4096];
        for method in BOTH {
            let compressed = compress(method, &cluster).unwrap();
            assert!(decompress(method, &compressed, 8192).is_err());
            assert!(decompress(method, &compressed[..compressed.len() / 2], 4096).is_err());
            assert!(decompress(method, &[0xff; 100], 4096).is_err());
            assert!(decompress(method, &[], 4096).is_err());
        }
    }
}
