CREATE TABLE `checkpoints` (
	`run_id` text NOT NULL,
	`step` integer NOT NULL,
	`path` text NOT NULL,
	`weight_version` integer NOT NULL,
	`created_at` integer NOT NULL,
	`pruned_at` integer,
	PRIMARY KEY(`run_id`, `step`),
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `configurations` (
	`hash` text PRIMARY KEY NOT NULL,
	`toml` text NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `episodes` (
	`id` integer PRIMARY KEY NOT NULL,
	`key` text NOT NULL,
	`run_id` text NOT NULL,
	`group_id` integer NOT NULL,
	`task_id` integer NOT NULL,
	`step` integer NOT NULL,
	`purpose` text NOT NULL,
	`member` integer NOT NULL,
	`reward` real NOT NULL,
	`stop_reason` text NOT NULL,
	`error` text,
	`isolation` text NOT NULL,
	`grading` text NOT NULL,
	`turns` integer NOT NULL,
	`tokens` integer NOT NULL,
	`sampled_tokens` integer NOT NULL,
	`started_at` integer NOT NULL,
	`reset_ms` real NOT NULL,
	`generate_ms` real NOT NULL,
	`tool_ms` real NOT NULL,
	`grade_ms` real NOT NULL,
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`group_id`) REFERENCES `groups`(`id`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`task_id`) REFERENCES `tasks`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `episodes_key` ON `episodes` (`key`);--> statement-breakpoint
CREATE INDEX `episodes_step` ON `episodes` (`run_id`,`step`,`purpose`);--> statement-breakpoint
CREATE INDEX `episodes_group` ON `episodes` (`group_id`);--> statement-breakpoint
CREATE INDEX `episodes_task` ON `episodes` (`task_id`);--> statement-breakpoint
CREATE TABLE `evaluations` (
	`run_id` text NOT NULL,
	`step` integer NOT NULL,
	`split` text NOT NULL,
	`greedy` integer NOT NULL,
	`rate` real NOT NULL,
	`n` integer NOT NULL,
	`low` real NOT NULL,
	`high` real NOT NULL,
	`per_family` text NOT NULL,
	PRIMARY KEY(`run_id`, `step`, `split`, `greedy`),
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade,
	CONSTRAINT "evaluations_interval" CHECK("evaluations"."low" <= "evaluations"."high")
);
--> statement-breakpoint
CREATE TABLE `events` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`run_id` text,
	`step` integer,
	`at` integer NOT NULL,
	`type` text NOT NULL,
	`body` text NOT NULL,
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `events_run` ON `events` (`run_id`,`id`);--> statement-breakpoint
CREATE TABLE `groups` (
	`id` integer PRIMARY KEY NOT NULL,
	`key` text NOT NULL,
	`run_id` text NOT NULL,
	`step` integer NOT NULL,
	`task_id` integer NOT NULL,
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`task_id`) REFERENCES `tasks`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `groups_key` ON `groups` (`run_id`,`key`);--> statement-breakpoint
CREATE INDEX `groups_step` ON `groups` (`run_id`,`step`);--> statement-breakpoint
CREATE TABLE `metrics` (
	`run_id` text NOT NULL,
	`step` integer NOT NULL,
	`name` text NOT NULL,
	`value` real,
	PRIMARY KEY(`run_id`, `step`, `name`),
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `runs` (
	`id` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`status` text NOT NULL,
	`reason` text,
	`algorithm` text NOT NULL,
	`seed` integer NOT NULL,
	`config_hash` text NOT NULL,
	`out_dir` text NOT NULL,
	`isolation` text NOT NULL,
	`ale_version` text NOT NULL,
	`steps` integer NOT NULL,
	`committed_step` integer,
	`episodes` integer DEFAULT 0 NOT NULL,
	`wall_seconds` real DEFAULT 0 NOT NULL,
	`owner` text,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	`finished_at` integer,
	FOREIGN KEY (`config_hash`) REFERENCES `configurations`(`hash`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `runs_created` ON `runs` (`created_at`);--> statement-breakpoint
CREATE INDEX `runs_out_dir` ON `runs` (`out_dir`);--> statement-breakpoint
CREATE TABLE `steps` (
	`run_id` text NOT NULL,
	`step` integer NOT NULL,
	`committed_at` integer NOT NULL,
	`wall_seconds` real NOT NULL,
	`state` text NOT NULL,
	PRIMARY KEY(`run_id`, `step`),
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `tasks` (
	`id` integer PRIMARY KEY NOT NULL,
	`key` text NOT NULL,
	`suite` text NOT NULL,
	`family` text NOT NULL,
	`split` text NOT NULL,
	`seed` integer NOT NULL,
	`instruction` text
);
--> statement-breakpoint
CREATE UNIQUE INDEX `tasks_key` ON `tasks` (`key`);--> statement-breakpoint
CREATE INDEX `tasks_family` ON `tasks` (`family`,`split`);--> statement-breakpoint
CREATE TABLE `tokens` (
	`episode_id` integer PRIMARY KEY NOT NULL,
	`format` integer NOT NULL,
	`count` integer NOT NULL,
	`data` blob NOT NULL,
	FOREIGN KEY (`episode_id`) REFERENCES `episodes`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `turns` (
	`episode_id` integer NOT NULL,
	`turn` integer NOT NULL,
	`command` text NOT NULL,
	`observation` text NOT NULL,
	`exit_code` integer,
	`started_ms` real NOT NULL,
	`generated_ms` real NOT NULL,
	`observed_ms` real NOT NULL,
	PRIMARY KEY(`episode_id`, `turn`),
	FOREIGN KEY (`episode_id`) REFERENCES `episodes`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `weight_versions` (
	`run_id` text NOT NULL,
	`version` integer NOT NULL,
	`step` integer NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`run_id`, `version`),
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `weight_versions_step` ON `weight_versions` (`run_id`,`step`);