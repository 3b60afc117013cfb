SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE FUNCTION public.audit_is_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'the audit trail is only appended to'; END $$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.adopted (
    name text NOT NULL,
    digest character varying(100) NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.approvals (
    id character varying(500) NOT NULL,
    release_id character varying(500) NOT NULL,
    bundle_id character varying(500) NOT NULL,
    by character varying(500) NOT NULL,
    approved boolean NOT NULL,
    reason text NOT NULL,
    at timestamp with time zone NOT NULL,
    generation bigint NOT NULL
);
CREATE TABLE public.attempts (
    id character varying(500) NOT NULL,
    model character varying(500) NOT NULL,
    version bigint NOT NULL,
    run_id character varying(500) NOT NULL,
    at timestamp with time zone NOT NULL,
    withdrawn bigint NOT NULL,
    asked_at timestamp with time zone,
    generation bigint NOT NULL
);
CREATE TABLE public.audit (
    number bigint NOT NULL,
    id character varying(500) NOT NULL,
    at timestamp with time zone NOT NULL,
    who character varying(500) NOT NULL,
    action character varying(500) NOT NULL,
    model character varying(500),
    version bigint,
    release_id character varying(500),
    reason text NOT NULL,
    document text NOT NULL,
    hash character varying(64) NOT NULL
);
CREATE TABLE public.audit_head (
    id bigint NOT NULL,
    number bigint NOT NULL,
    hash character varying(64) NOT NULL
);
CREATE TABLE public.deliveries (
    id character varying(500) NOT NULL,
    source character varying(500) NOT NULL,
    at timestamp with time zone NOT NULL,
    words text NOT NULL,
    generation bigint NOT NULL
);
CREATE TABLE public.events (
    number bigint NOT NULL,
    release_id character varying(500) NOT NULL,
    at timestamp with time zone NOT NULL,
    kind character varying(500) NOT NULL,
    detail text NOT NULL,
    candidate_weight double precision NOT NULL
);
CREATE SEQUENCE public.events_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.events_number_seq OWNED BY public.events.number;
CREATE TABLE public.freezes (
    id character varying(500) NOT NULL,
    model character varying(500),
    by character varying(500) NOT NULL,
    reason text NOT NULL,
    since timestamp with time zone NOT NULL,
    until timestamp with time zone,
    lifted_by character varying(500) NOT NULL,
    lifted_at timestamp with time zone,
    generation bigint NOT NULL
);
CREATE TABLE public.leases (
    name character varying(500) NOT NULL,
    holder character varying(500) NOT NULL,
    token bigint NOT NULL,
    renewed_at timestamp with time zone NOT NULL,
    seconds double precision NOT NULL
);
CREATE TABLE public.notes (
    id character varying(500) NOT NULL,
    model character varying(500) NOT NULL,
    kind character varying(500) NOT NULL,
    at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    document text NOT NULL,
    generation bigint NOT NULL
);
CREATE TABLE public.observations (
    number bigint NOT NULL,
    release_id character varying(500) NOT NULL,
    at timestamp with time zone NOT NULL,
    place bigint NOT NULL,
    document text NOT NULL
);
CREATE SEQUENCE public.observations_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.observations_number_seq OWNED BY public.observations.number;
CREATE TABLE public.outbox (
    id character varying(500) NOT NULL,
    model character varying(500) NOT NULL,
    at timestamp with time zone NOT NULL,
    next_at timestamp with time zone NOT NULL,
    status character varying(500) NOT NULL,
    tries bigint NOT NULL,
    claimed_until timestamp with time zone,
    document text NOT NULL,
    generation bigint NOT NULL
);
CREATE TABLE public.overrides (
    release_id character varying(500) NOT NULL,
    by character varying(500) NOT NULL,
    reason text NOT NULL,
    at timestamp with time zone NOT NULL,
    generation bigint NOT NULL
);
CREATE TABLE public.releases (
    id character varying(500) NOT NULL,
    model character varying(500) NOT NULL,
    version bigint NOT NULL,
    requested_at timestamp with time zone NOT NULL,
    requested_by character varying(500) NOT NULL,
    status character varying(500) NOT NULL,
    ended_at timestamp with time zone,
    document text NOT NULL,
    generation bigint NOT NULL
);
CREATE TABLE public.requests (
    id character varying(500) NOT NULL,
    service character varying(500) NOT NULL,
    action character varying(500) NOT NULL,
    by character varying(500) NOT NULL,
    reason text NOT NULL,
    at timestamp with time zone NOT NULL,
    status character varying(500) NOT NULL,
    answer text NOT NULL,
    answered_at timestamp with time zone,
    document text NOT NULL,
    generation bigint NOT NULL
);
CREATE TABLE public.rollouts (
    release_id character varying(500) NOT NULL,
    service character varying(500) NOT NULL,
    version bigint NOT NULL,
    phase character varying(500) NOT NULL,
    is_over boolean NOT NULL,
    started_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    document text NOT NULL,
    generation bigint NOT NULL
);
CREATE TABLE public.route_history (
    number bigint NOT NULL,
    service character varying(500) NOT NULL,
    revision bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    stable_version bigint,
    stable_bundle_id character varying(500),
    candidate_version bigint,
    candidate_bundle_id character varying(500),
    candidate_weight double precision NOT NULL
);
CREATE SEQUENCE public.route_history_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.route_history_number_seq OWNED BY public.route_history.number;
CREATE TABLE public.routes (
    service character varying(500) NOT NULL,
    at timestamp with time zone NOT NULL,
    stable_version bigint,
    stable_bundle_id character varying(500),
    candidate_version bigint,
    candidate_bundle_id character varying(500),
    candidate_weight double precision NOT NULL,
    document text NOT NULL,
    generation bigint NOT NULL
);
CREATE TABLE public.turns (
    service character varying(500) NOT NULL,
    at timestamp with time zone NOT NULL,
    holder character varying(500),
    holder_at timestamp with time zone,
    waiting character varying(500),
    waiting_at timestamp with time zone,
    generation bigint NOT NULL
);
ALTER TABLE ONLY public.events ALTER COLUMN number SET DEFAULT nextval('public.events_number_seq'::regclass);
ALTER TABLE ONLY public.observations ALTER COLUMN number SET DEFAULT nextval('public.observations_number_seq'::regclass);
ALTER TABLE ONLY public.route_history ALTER COLUMN number SET DEFAULT nextval('public.route_history_number_seq'::regclass);
INSERT INTO public.adopted VALUES ('journal/x.json', 'sha256:0', '2026-11-30 15:26:07.319197+00');
INSERT INTO public.alembic_version VALUES ('0001');
INSERT INTO public.approvals VALUES ('old/b1/ann', 'old', 'b1', 'ann', true, 'good', '2026-11-30 12:00:00+00', 1);
INSERT INTO public.attempts VALUES ('old/v1', 'old', 1, 'r', '2026-11-30 12:00:00+00', 0, NULL, 1);
INSERT INTO public.audit VALUES (1, '93ef3b09a233466d99e4ba8156dbaf01', '2026-11-30 12:00:00+00', 'ann', 'rollback', NULL, NULL, 'old', 'too slow', '{}', '4d67ca2d17191c1936a6ab9c4405db95cafa486557b744acf1c2fc8b8a6ed6fc');
INSERT INTO public.audit_head VALUES (1, 1, '4d67ca2d17191c1936a6ab9c4405db95cafa486557b744acf1c2fc8b8a6ed6fc');
INSERT INTO public.deliveries VALUES ('mlflow/1', 'mlflow', '2026-11-30 12:00:00+00', '', 1);
INSERT INTO public.events VALUES (1, 'old', '2026-11-30 12:00:00+00', 'rolled back', 'too slow', 0);
INSERT INTO public.freezes VALUES ('f1', NULL, 'ann', 'quarter''s end', '2026-11-30 12:00:00+00', NULL, '', NULL, 1);
INSERT INTO public.leases VALUES ('controller', 'a', 1, '2026-11-30 15:26:07.310558+00', 10);
INSERT INTO public.notes VALUES ('old/hold', 'old', 'hold', '2026-11-30 12:00:00+00', NULL, '{}', 1);
INSERT INTO public.observations VALUES (1, 'old', '2026-11-30 12:00:00+00', 1, '{}');
INSERT INTO public.outbox VALUES ('old.0', 'fraud', '2026-11-30 12:00:00+00', '2026-11-30 12:00:00+00', 'waiting', 0, NULL, '{}', 1);
INSERT INTO public.overrides VALUES ('old', 'ann', 'x', '2026-11-30 12:00:00+00', 1);
INSERT INTO public.releases VALUES ('old', 'old', 1, '2026-11-30 12:00:00+00', 'ann', '', NULL, '{}', 1);
INSERT INTO public.requests VALUES ('q1', 'old', 'pause', 'ann', 'lunch', '2026-11-30 12:00:00+00', 'open', '', NULL, '{}', 1);
INSERT INTO public.rollouts VALUES ('old', 'fraud', 3, 'progressing', false, '2026-11-30 12:00:00+00', '2026-11-30 12:00:00+00', '{"step":1}', 1);
INSERT INTO public.route_history VALUES (1, 'old', 1, '2026-11-30 12:00:00+00', 2, NULL, NULL, NULL, 0);
INSERT INTO public.routes VALUES ('old', '2026-11-30 12:00:00+00', 2, NULL, NULL, NULL, 0, '{"split":[100,0]}', 1);
INSERT INTO public.turns VALUES ('old', '2026-11-30 12:00:00+00', 'old', '2026-11-30 12:00:00+00', NULL, NULL, 1);
SELECT pg_catalog.setval('public.events_number_seq', 1, true);
SELECT pg_catalog.setval('public.observations_number_seq', 1, true);
SELECT pg_catalog.setval('public.route_history_number_seq', 1, true);
ALTER TABLE ONLY public.adopted
    ADD CONSTRAINT adopted_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.approvals
    ADD CONSTRAINT approvals_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.audit_head
    ADD CONSTRAINT audit_head_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_once UNIQUE (id);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.freezes
    ADD CONSTRAINT freezes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.notes
    ADD CONSTRAINT notes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.observations
    ADD CONSTRAINT observations_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.overrides
    ADD CONSTRAINT overrides_pkey PRIMARY KEY (release_id);
ALTER TABLE ONLY public.releases
    ADD CONSTRAINT releases_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.rollouts
    ADD CONSTRAINT rollouts_pkey PRIMARY KEY (release_id);
ALTER TABLE ONLY public.route_history
    ADD CONSTRAINT route_history_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.routes
    ADD CONSTRAINT routes_pkey PRIMARY KEY (service);
ALTER TABLE ONLY public.turns
    ADD CONSTRAINT turns_pkey PRIMARY KEY (service);
CREATE INDEX approvals_of_release ON public.approvals USING btree (release_id);
CREATE INDEX attempts_of_model ON public.attempts USING btree (model);
CREATE INDEX audit_by_time ON public.audit USING btree (at);
CREATE INDEX audit_of_model ON public.audit USING btree (model, number);
CREATE INDEX audit_of_release ON public.audit USING btree (release_id);
CREATE INDEX deliveries_by_time ON public.deliveries USING btree (at);
CREATE INDEX events_of_release ON public.events USING btree (release_id, number);
CREATE INDEX notes_of_model ON public.notes USING btree (model);
CREATE INDEX observations_of_release ON public.observations USING btree (release_id, number);
CREATE INDEX outbox_due ON public.outbox USING btree (status, next_at);
CREATE INDEX releases_by_time ON public.releases USING btree (requested_at);
CREATE INDEX releases_of_model ON public.releases USING btree (model, requested_at);
CREATE INDEX requests_by_status ON public.requests USING btree (status, at);
CREATE INDEX requests_of_service ON public.requests USING btree (service, at);
CREATE INDEX rollouts_of_service ON public.rollouts USING btree (service, started_at);
CREATE INDEX rollouts_under_way ON public.rollouts USING btree (is_over, started_at);
CREATE INDEX route_history_by_time ON public.route_history USING btree (at);
CREATE INDEX route_history_of_service ON public.route_history USING btree (service, revision);
CREATE TRIGGER audit_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit FOR EACH STATEMENT EXECUTE FUNCTION public.audit_is_append_only();
