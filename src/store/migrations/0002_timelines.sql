CREATE TABLE `timelines` (
	`run_id` text NOT NULL,
	`step` integer NOT NULL,
	`track` text NOT NULL,
	`started_at` real NOT NULL,
	`count` integer NOT NULL,
	`format` integer NOT NULL,
	`data` blob NOT NULL,
	PRIMARY KEY(`run_id`, `step`, `track`),
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade
);
