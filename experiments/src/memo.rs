//! What takes long to make and is wanted by many cells: made once for each key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values by key, made when first wanted.
#[derive(Debug)]
pub struct Memo<K, V>(Mutex<BTreeMap<K, Arc<Mutex<Option<V>>>>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Memo<K, V> {
        Memo(Mutex::default())
    }
}

impl<K: Ord, V: Clone> Memo<K, V> {
    /// The value of `key`, from `make` if nobody has wanted it before. Who wants it meanwhile waits.
    ///
    /// # Errors
    /// That of `make`, which is then called again for the next who asks.
    pub fn get(&self, key: K, make: impl FnOnce() -> anyhow::Result<V>) -> anyhow::Result<V> {
        let place = Arc::clone(lock(&self.0).entry(key).or_default());
        let mut value = lock(&place);
        match &*value {
            Some(value) => Ok(value.clone()),
            None => Ok(value.insert(make()?).clone()),
        }
    }
}

/// A panic of another thread leaves no half-made value behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_value_is_made_once_and_an_error_is_not_kept() {
        let memo = Memo::default();
        assert!(memo.get("a", || bail!("not yet")).is_err());
        assert_eq!(memo.get("a", || Ok(1)).unwrap(), 1);
        assert_eq!(memo.get("a", || Ok(2)).unwrap(), 1);
        assert_eq!(memo.get("b", || Ok(2)).unwrap(), 2);
    }
}
