CREATE TABLE `pending_episodes` (
	`run_id` text NOT NULL,
	`key` text NOT NULL,
	`from_step` integer NOT NULL,
	`until_step` integer,
	`body` text NOT NULL,
	`format` integer NOT NULL,
	`count` integer NOT NULL,
	`data` blob NOT NULL,
	PRIMARY KEY(`run_id`, `key`),
	FOREIGN KEY (`run_id`) REFERENCES `runs`(`id`) ON UPDATE no action ON DELETE cascade
);
