BEGIN TRANSACTION;
CREATE TABLE adopted (
	name TEXT NOT NULL, 
	digest VARCHAR(100) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "adopted" VALUES('journal/x.json','sha256:0','2026-11-30T15:26:02.675000Z');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE approvals (
	id VARCHAR(500) NOT NULL, 
	release_id VARCHAR(500) NOT NULL, 
	bundle_id VARCHAR(500) NOT NULL, 
	"by" VARCHAR(500) NOT NULL, 
	approved BOOLEAN NOT NULL, 
	reason TEXT NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "approvals" VALUES('old/b1/ann','old','b1','ann',1,'good','2026-11-30T12:00:00.000000Z',1);
CREATE TABLE attempts (
	id VARCHAR(500) NOT NULL, 
	model VARCHAR(500) NOT NULL, 
	version BIGINT NOT NULL, 
	run_id VARCHAR(500) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	withdrawn BIGINT NOT NULL, 
	asked_at VARCHAR(27), 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "attempts" VALUES('old/v1','old',1,'r','2026-11-30T12:00:00.000000Z',0,NULL,1);
CREATE TABLE audit (
	number INTEGER NOT NULL, 
	id VARCHAR(500) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	who VARCHAR(500) NOT NULL, 
	action VARCHAR(500) NOT NULL, 
	model VARCHAR(500), 
	version BIGINT, 
	release_id VARCHAR(500), 
	reason TEXT NOT NULL, 
	document TEXT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (number), 
	CONSTRAINT audit_once UNIQUE (id)
);
INSERT INTO "audit" VALUES(1,'33d154bc795a4e8dbf0d252c563a50c2','2026-11-30T12:00:00.000000Z','ann','rollback',NULL,NULL,'old','too slow','{}','b0d557713c74ee90ac8ae8044eb977bc7de1b3660828c16535f7cc011407a08d');
CREATE TABLE audit_head (
	id BIGINT NOT NULL, 
	number BIGINT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "audit_head" VALUES(1,1,'b0d557713c74ee90ac8ae8044eb977bc7de1b3660828c16535f7cc011407a08d');
CREATE TABLE deliveries (
	id VARCHAR(500) NOT NULL, 
	source VARCHAR(500) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	words TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "deliveries" VALUES('mlflow/1','mlflow','2026-11-30T12:00:00.000000Z','',1);
CREATE TABLE events (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	release_id VARCHAR(500) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	kind VARCHAR(500) NOT NULL, 
	detail TEXT NOT NULL, 
	candidate_weight FLOAT NOT NULL
);
INSERT INTO "events" VALUES(1,'old','2026-11-30T12:00:00.000000Z','rolled back','too slow',0.0);
CREATE TABLE freezes (
	id VARCHAR(500) NOT NULL, 
	model VARCHAR(500), 
	"by" VARCHAR(500) NOT NULL, 
	reason TEXT NOT NULL, 
	since VARCHAR(27) NOT NULL, 
	until VARCHAR(27), 
	lifted_by VARCHAR(500) NOT NULL, 
	lifted_at VARCHAR(27), 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "freezes" VALUES('f1',NULL,'ann','quarter''s end','2026-11-30T12:00:00.000000Z',NULL,'',NULL,1);
CREATE TABLE leases (
	name VARCHAR(500) NOT NULL, 
	holder VARCHAR(500) NOT NULL, 
	token BIGINT NOT NULL, 
	renewed_at VARCHAR(27) NOT NULL, 
	seconds FLOAT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "leases" VALUES('controller','a',1,'2026-11-30T15:26:02.656000Z',10.0);
CREATE TABLE notes (
	id VARCHAR(500) NOT NULL, 
	model VARCHAR(500) NOT NULL, 
	kind VARCHAR(500) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	ended_at VARCHAR(27), 
	document TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "notes" VALUES('old/hold','old','hold','2026-11-30T12:00:00.000000Z',NULL,'{}',1);
CREATE TABLE observations (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	release_id VARCHAR(500) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	place BIGINT NOT NULL, 
	document TEXT NOT NULL
);
INSERT INTO "observations" VALUES(1,'old','2026-11-30T12:00:00.000000Z',1,'{}');
CREATE TABLE outbox (
	id VARCHAR(500) NOT NULL, 
	model VARCHAR(500) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	next_at VARCHAR(27) NOT NULL, 
	status VARCHAR(500) NOT NULL, 
	tries BIGINT NOT NULL, 
	claimed_until VARCHAR(27), 
	document TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "outbox" VALUES('old.0','fraud','2026-11-30T12:00:00.000000Z','2026-11-30T12:00:00.000000Z','waiting',0,NULL,'{}',1);
CREATE TABLE overrides (
	release_id VARCHAR(500) NOT NULL, 
	"by" VARCHAR(500) NOT NULL, 
	reason TEXT NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (release_id)
);
INSERT INTO "overrides" VALUES('old','ann','x','2026-11-30T12:00:00.000000Z',1);
CREATE TABLE releases (
	id VARCHAR(500) NOT NULL, 
	model VARCHAR(500) NOT NULL, 
	version BIGINT NOT NULL, 
	requested_at VARCHAR(27) NOT NULL, 
	requested_by VARCHAR(500) NOT NULL, 
	status VARCHAR(500) NOT NULL, 
	ended_at VARCHAR(27), 
	document TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "releases" VALUES('old','old',1,'2026-11-30T12:00:00.000000Z','ann','',NULL,'{}',1);
CREATE TABLE requests (
	id VARCHAR(500) NOT NULL, 
	service VARCHAR(500) NOT NULL, 
	action VARCHAR(500) NOT NULL, 
	"by" VARCHAR(500) NOT NULL, 
	reason TEXT NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	status VARCHAR(500) NOT NULL, 
	answer TEXT NOT NULL, 
	answered_at VARCHAR(27), 
	document TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "requests" VALUES('q1','old','pause','ann','lunch','2026-11-30T12:00:00.000000Z','open','',NULL,'{}',1);
CREATE TABLE rollouts (
	release_id VARCHAR(500) NOT NULL, 
	service VARCHAR(500) NOT NULL, 
	version BIGINT NOT NULL, 
	phase VARCHAR(500) NOT NULL, 
	is_over BOOLEAN NOT NULL, 
	started_at VARCHAR(27) NOT NULL, 
	changed_at VARCHAR(27) NOT NULL, 
	document TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (release_id)
);
INSERT INTO "rollouts" VALUES('old','fraud',3,'progressing',0,'2026-11-30T12:00:00.000000Z','2026-11-30T12:00:00.000000Z','{"step":1}',1);
CREATE TABLE route_history (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	service VARCHAR(500) NOT NULL, 
	revision BIGINT NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	stable_version BIGINT, 
	stable_bundle_id VARCHAR(500), 
	candidate_version BIGINT, 
	candidate_bundle_id VARCHAR(500), 
	candidate_weight FLOAT NOT NULL
);
INSERT INTO "route_history" VALUES(1,'old',1,'2026-11-30T12:00:00.000000Z',2,NULL,NULL,NULL,0.0);
CREATE TABLE routes (
	service VARCHAR(500) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	stable_version BIGINT, 
	stable_bundle_id VARCHAR(500), 
	candidate_version BIGINT, 
	candidate_bundle_id VARCHAR(500), 
	candidate_weight FLOAT NOT NULL, 
	document TEXT NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (service)
);
INSERT INTO "routes" VALUES('old','2026-11-30T12:00:00.000000Z',2,NULL,NULL,NULL,0.0,'{"split":[100,0]}',1);
CREATE TABLE turns (
	service VARCHAR(500) NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	holder VARCHAR(500), 
	holder_at VARCHAR(27), 
	waiting VARCHAR(500), 
	waiting_at VARCHAR(27), 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (service)
);
INSERT INTO "turns" VALUES('old','2026-11-30T12:00:00.000000Z','old','2026-11-30T12:00:00.000000Z',NULL,NULL,1);
CREATE INDEX approvals_of_release ON approvals (release_id);
CREATE INDEX attempts_of_model ON attempts (model);
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_of_model ON audit (model, number);
CREATE INDEX audit_of_release ON audit (release_id);
CREATE INDEX deliveries_by_time ON deliveries (at);
CREATE INDEX events_of_release ON events (release_id, number);
CREATE INDEX notes_of_model ON notes (model);
CREATE INDEX observations_of_release ON observations (release_id, number);
CREATE INDEX outbox_due ON outbox (status, next_at);
CREATE INDEX releases_by_time ON releases (requested_at);
CREATE INDEX releases_of_model ON releases (model, requested_at);
CREATE INDEX requests_by_status ON requests (status, at);
CREATE INDEX requests_of_service ON requests (service, at);
CREATE INDEX rollouts_of_service ON rollouts (service, started_at);
CREATE INDEX rollouts_under_way ON rollouts (is_over, started_at);
CREATE INDEX route_history_by_time ON route_history (at);
CREATE INDEX route_history_of_service ON route_history (service, revision);
CREATE TRIGGER audit_UPDATE BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail is only appended to'); END;
CREATE TRIGGER audit_DELETE BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail is only appended to'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('route_history',1);
INSERT INTO "sqlite_sequence" VALUES('events',1);
INSERT INTO "sqlite_sequence" VALUES('observations',1);
COMMIT;
