CREATE TABLE `alerts` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`run_id` text,
	`episode_id` integer,
	`sandbox` text,
	`turn` integer,
	`kind` text NOT NULL,
	`action` text NOT NULL,
	`at` integer NOT NULL,
	`evidence` text NOT NULL,
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`episode_id`) REFERENCES `episodes`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `alerts_run` ON `alerts` (`run_id`,`id`);--> statement-breakpoint
CREATE INDEX `alerts_episode` ON `alerts` (`episode_id`);