ALTER TABLE `episodes` ADD `fork_anchor` integer;--> statement-breakpoint
ALTER TABLE `episodes` ADD `fork_chunks` integer;--> statement-breakpoint
ALTER TABLE `episodes` ADD `fork_expert` text;