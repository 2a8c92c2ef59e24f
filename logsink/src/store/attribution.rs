//! Which flow is whose: the observer of a domain sees who took a connection or made one, the switch sees its packets. Here both meet, in the
//! store only; the journal keeps what each of them said.

use events::StoredEvent;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::StoreError;

/// The switch may tell of a flow so long before the observer tells whose it is.
const BEFORE_US: i64 = 60_000_000;
/// A flow is told of no later than this after its session began.
const AFTER_US: i64 = 24 * 3600 * 1_000_000;
/// Connections outwards are matched by where they lead; the same place is not reached twice in so short a time by two programs.
const OUTWARDS_US: i64 = 10_000_000;

/// Who is at the domain's end of a flow.
struct Owner {
    session: Option<String>,
    pid: i64,
    exe: String,
}

/// Joins an event that was just stored under this id with those that it explains, or that explain it.
pub async fn attribute(c: &mut SqliteConnection, id: i64, event: &StoredEvent) -> Result<(), StoreError> {
    match event.event_id.as_str() {
        "session.opened" => explain_inwards(c, event).await,
        "process.connect" => explain_outwards(c, event).await,
        _ if event.flow_id.is_some() && event.session.is_none() => be_explained(c, id, event).await,
        _ => Ok(()),
    }
}

fn owner(event: &StoredEvent, exe: &str) -> Owner {
    let text = |key| event.text(key).unwrap_or_default().to_owned();
    Owner { session: event.session.clone(), pid: event.number("pid").unwrap_or(0) as i64, exe: text(exe) }
}

async fn explain_inwards(c: &mut SqliteConnection, event: &StoredEvent) -> Result<(), StoreError> {
    let owner = owner(event, "service");
    let time = event.timestamp.as_microsecond();
    let sql = "UPDATE events SET session = ?1, json = json_set(json, '$.session', ?1, '$.pid', ?2, '$.exe', ?3) \
               WHERE src_ip = ?4 AND src_port = ?5 AND domain = ?6 AND time > ?7 AND session IS NULL AND flow_id IS NOT NULL";
    sqlx::query(sql)
        .bind(owner.session)
        .bind(owner.pid)
        .bind(owner.exe)
        .bind(event.text("src_ip"))
        .bind(event.number("src_port").map(|port| port as i64))
        .bind(&event.domain)
        .bind(time - BEFORE_US)
        .execute(c)
        .await?;
    Ok(())
}

async fn explain_outwards(c: &mut SqliteConnection, event: &StoredEvent) -> Result<(), StoreError> {
    let owner = owner(event, "exe");
    let time = event.timestamp.as_microsecond();
    let sql = "UPDATE events SET session = ?1, json = json_set(json, '$.session', ?1, '$.pid', ?2, '$.exe', ?3) \
               WHERE time BETWEEN ?7 - ?8 AND ?7 + ?8 AND dest_ip = ?4 AND dest_port = ?5 AND domain = ?6 \
               AND session IS NULL AND flow_id IS NOT NULL";
    sqlx::query(sql)
        .bind(owner.session)
        .bind(owner.pid)
        .bind(owner.exe)
        .bind(event.text("address"))
        .bind(event.number("port").map(|port| port as i64))
        .bind(&event.domain)
        .bind(time)
        .bind(OUTWARDS_US)
        .execute(c)
        .await?;
    Ok(())
}

async fn be_explained(c: &mut SqliteConnection, id: i64, event: &StoredEvent) -> Result<(), StoreError> {
    let time = event.timestamp.as_microsecond();
    let sql = "SELECT session, json_extract(json, '$.session_event.pid'), json_extract(json, '$.session_event.service') FROM events \
               WHERE src_ip = ?1 AND src_port = ?2 AND domain = ?3 AND event_id = 'session.opened' AND time > ?4 \
               ORDER BY id DESC LIMIT 1";
    let inwards = sqlx::query(sql)
        .bind(event.src_ip.map(|ip| ip.to_string()))
        .bind(event.src_port.map(i64::from))
        .bind(&event.domain)
        .bind(time - AFTER_US)
        .fetch_optional(&mut *c)
        .await?;
    let sql = "SELECT session, json_extract(json, '$.process.pid'), json_extract(json, '$.process.exe') FROM events \
               WHERE event_id = 'process.connect' AND time BETWEEN ?4 - ?5 AND ?4 + ?5 AND domain = ?3 \
               AND json_extract(json, '$.process.address') = ?1 AND json_extract(json, '$.process.port') = ?2 \
               ORDER BY id DESC LIMIT 1";
    let row = match inwards {
        Some(row) => Some(row),
        None => {
            sqlx::query(sql)
                .bind(event.dest_ip.map(|ip| ip.to_string()))
                .bind(event.dest_port.map(i64::from))
                .bind(&event.domain)
                .bind(time)
                .bind(OUTWARDS_US)
                .fetch_optional(&mut *c)
                .await?
        }
    };
    let Some(row) = row else { return Ok(()) };
    let sql = "UPDATE events SET session = ?1, json = json_set(json, '$.session', ?1, '$.pid', ?2, '$.exe', ?3) WHERE id = ?4";
    sqlx::query(sql)
        .bind(row.try_get::<Option<String>, _>(0)?)
        .bind(row.try_get::<Option<i64>, _>(1)?)
        .bind(row.try_get::<Option<String>, _>(2)?)
        .bind(id)
        .execute(c)
        .await?;
    Ok(())
}
