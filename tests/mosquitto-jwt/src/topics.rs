//! Whether a granted topic filter covers what is asked for.

/// Whether everything that the filter `wanted` can match is matched by `granted` too. A topic is a filter that
/// matches itself.
pub(crate) fn covers(granted: &str, wanted: &str) -> bool {
    // A leading `$` is outside of what a wildcard matches (MQTT 5, 4.7.2).
    if wanted.starts_with('$') && granted.starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = wanted.split('/');
    for level in granted.split('/') {
        if level == "#" {
            return true;
        }
        match wanted.next() {
            Some("#") | None => return false,
            Some(asked) if level == "+" || level == asked => {}
            Some(_) => return false,
        }
    }
    wanted.next().is_none()
}

/// The filter of a subscription, without `$share/{name}/`; `None` where that prefix is malformed.
pub(crate) fn shared_filter(filter: &str) -> Option<&str> {
    let Some(rest) = filter.strip_prefix("$share/") else { return Some(filter) };
    let (name, filter) = rest.split_once('/')?;
    (!name.is_empty() && !name.contains(['+', '#']) && !filter.is_empty()).then_some(filter)
}
