CREATE TABLE `sandbox_audit` (
	`id` integer PRIMARY KEY NOT NULL,
	`episode_id` integer NOT NULL,
	`turn` integer,
	`phase` text NOT NULL,
	`kind` text NOT NULL,
	`sandbox` text NOT NULL,
	`at` integer NOT NULL,
	`ms` real NOT NULL,
	`command` text,
	`exit_code` integer,
	`host` text,
	`address` text,
	`port` integer,
	`verdict` text,
	`reason` text,
	`bytes_out` integer,
	`bytes_in` integer,
	FOREIGN KEY (`episode_id`) REFERENCES `episodes`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `sandbox_audit_episode` ON `sandbox_audit` (`episode_id`,`turn`);--> statement-breakpoint
CREATE INDEX `sandbox_audit_verdict` ON `sandbox_audit` (`verdict`) WHERE verdict IS NOT NULL;