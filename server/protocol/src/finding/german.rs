//! The same in German.

use super::Code;

/// What a code means, as a short clause.
pub(super) const fn title(code: Code) -> &'static str {
    texts(code).0
}

/// What to do next.
pub(super) const fn next(code: Code) -> &'static str {
    texts(code).1
}

const fn texts(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::NoDhcp => (
            "eingeschaltet, aber kein DHCP-Paket gesehen",
            "Kabel prüfen, ob die Startreihenfolge das Netz enthält, das VLAN des Switch-Ports und das Relay.",
        ),
        Code::NoBootFile => (
            "Adresse vergeben, aber keine Startdatei geholt",
            "Prüfen, ob UDP 69 und der HTTP-Port dieses Servers die Maschine erreichen, und ob kein anderer DHCP-Server schneller antwortet.",
        ),
        Code::AgentNoLink => (
            "keine Netzwerkkarte hat einen Link",
            "Kabel prüfen; fehlt eine Netzwerkkarte, ist ihr Treiber vielleicht nicht in der Ramdisk.",
        ),
        Code::AgentNoDhcp => (
            "der Agent bekommt keine Antwort auf DHCP",
            "Prüfen, ob DHCP-Server oder Relay das VLAN dieses Ports bedienen.",
        ),
        Code::ServerUnreachable => (
            "der Agent erreicht den Server nicht",
            "Die Adresse in der Meldung, Routen und Firewalls prüfen; der Agent versucht es weiter.",
        ),
        Code::PoolExhausted => (
            "keine freie Adresse im Pool",
            "Mit `ks dhcp leases` ansehen, wer die Adressen hat. Die mit `in_use` hat nicht dieser Server vergeben: Unbekannte antworteten dort; diese suchen, oder ihre Adressen mit `exclude` ausnehmen. Sonst den Pool vergrößern oder dieser Maschine eine Adresse reservieren.",
        ),
        Code::UnknownNetwork => (
            "es fragt aus einem Netz, das nicht bedient wird",
            "Das Netz in die Konfiguration aufnehmen, oder die Adresse des Relays berichtigen; das Relay steht im Beleg.",
        ),
        Code::ForeignServer => (
            "ein anderer DHCP-Server war schneller",
            "Den Server im Beleg suchen; ihn abschalten, ihm dieses Netz nehmen, oder ihn diesen Server nennen lassen.",
        ),
        Code::ProxyIgnored => (
            "die Firmware überging das Startangebot neben dem anderen DHCP-Server",
            "Die Firmware aktualisieren, oder diesen Server und seine Startdatei beim anderen DHCP-Server eintragen.",
        ),
        Code::OfferNotRequested => (
            "eine Adresse wurde angeboten, aber nie verlangt",
            "Antworten erreichen die Maschine nicht: Relay, VLAN und DHCP-Snooping auf dem Rückweg prüfen.",
        ),
        Code::BootFileMissing => (
            "eine Startdatei wurde verlangt, die es nicht gibt oder die nicht lesbar ist",
            "Nennt der Beleg einen Schlüssel der Konfiguration, ist es eine Datei dieses Servers: sie dorthin legen und für den Benutzer des Servers lesbar machen; `ks boot try` nennt sie. Ist der Name im Beleg einer der Loader in docs/configuration.md, die Datei nach `boot.loaders` legen; unter anderen Namen wird aus diesem Verzeichnis nichts gegeben: berichtigen, wer ihn nennt.",
        ),
        Code::PathMtu => (
            "große Pakete erreichen die Maschine nicht",
            "Die MTU jeder Strecke auf dem Weg prüfen, und Firewalls, die ICMP verwerfen; kleine Pakete kommen durch.",
        ),
        Code::PacketLoss => (
            "unterwegs gehen Pakete verloren",
            "Kabel, Zähler des Ports und Duplex des Links der Maschine prüfen.",
        ),
        Code::TransferStopped => (
            "die Maschine hörte mitten in einer Startdatei auf",
            "Auf ihre Konsole sehen: Sie startete neu, hatte zu wenig Speicher oder verlor ihren Link beim Block im Beleg.",
        ),
        Code::HttpAborted => (
            "eine HTTP-Übertragung einer Startdatei brach ab",
            "Auf ihre Konsole sehen, und Proxys und Firewalls auf dem Weg prüfen; das Byte steht im Beleg.",
        ),
        Code::BootLoop => (
            "es startet immer wieder von vorn",
            "Auf ihre Konsole sehen; der Beleg sagt, wie weit jeder Start kam.",
        ),
        Code::WrongArchitecture => (
            "es gibt keine Startdatei für seine Architektur",
            "Die Firmware auf BIOS umstellen, oder auf UEFI auf x86-64 oder 64-Bit-ARM: Nur dafür gibt es Loader. Nennt der Beleg einen Loader für eine andere Maschine, den richtigen unter diesem Namen nach `boot.loaders` legen.",
        ),
        Code::SecureBootRefused => (
            "Secure Boot hat den Loader abgelehnt",
            "Für diese Maschine den signierten Loader verwenden, den Schlüssel des Loaders eintragen, oder Secure Boot abschalten.",
        ),
        Code::AddressConflict => (
            "seine Adresse wird von einer anderen Maschine benutzt",
            "Suchen, wer die Adresse im Beleg benutzt, und die Adresse aus dem Pool oder der anderen Maschine nehmen.",
        ),
        Code::LinkDelay => (
            "seine ersten Fragen kamen nicht an",
            "Den Switch-Port sofort weiterleiten lassen: Edge-Port (Portfast), kein Spanning Tree, kein langsames LACP.",
        ),
        Code::DiskNotBootable => (
            "seine eigene Platte startet nicht",
            "Prüfen, ob die Platte da ist und gleich nach dem Netz kommt; `ks rebuild` legt das System neu auf.",
        ),
        Code::LoaderSilent => (
            "der Loader wurde geholt, tat aber nichts",
            "Auf ihre Konsole sehen; den anderen Loader versuchen, oder die Firmware aktualisieren.",
        ),
        Code::KernelSilent => (
            "Kernel und Ramdisk wurden geholt, aber kein Agent meldete sich",
            "Auf ihre Konsole sehen: Der Kernel braucht einen Treiber, mehr Speicher oder Argumente für diese Hardware.",
        ),
        Code::LinkFlaps => (
            "ihr Link kommt und geht",
            "Kabel oder Transceiver tauschen, und Geschwindigkeit und Duplex an beiden Enden vergleichen; das Log des Switch-Ports zeigt dieselben Wechsel.",
        ),
        Code::SubnetNotServed => (
            "dieser Server bedient das Netz der Maschine zurzeit nicht",
            "`ks dhcp status` zeigt seine Rolle: Ist sie `refused`, war ein anderer DHCP-Server zuerst da; diesen ausstecken, oder für das Netz `mode = \"proxy\"` oder `allow_other_servers = true` setzen.",
        ),
        Code::LeaseNotStored => (
            "dieser Server kann keine Leases speichern",
            "Auf der Platte von `data_dir` Platz schaffen, oder im Log des Servers sehen, warum nichts geschrieben werden kann; Leases werden dann von selbst wieder gespeichert.",
        ),
        Code::LeasesRestored => (
            "neue Adressen warten, seit die Datenbank wiederhergestellt wurde",
            "Warten, bis seit der Wiederherstellung die längste Lease-Zeit vergangen ist, der Maschine eine Adresse reservieren, oder für das Netz `ping_check = \"never\"` setzen, wenn nach der Kopie keine Lease vergeben wurde.",
        ),
        Code::NoAddressServer => (
            "niemand gibt ihr eine Adresse",
            "Den DHCP-Server starten, der in diesem Netz Adressen vergibt, oder diesen vergeben lassen: `mode = \"auto\"` oder `\"authoritative\"` und ein `pool`.",
        ),
        Code::ForeignDhcpServer => (
            "ein anderer DHCP-Server antwortet in diesem Netz",
            "Gehört er nicht dorthin, seine Hardwareadresse an den Switches suchen und ihn ausstecken. Wenn doch, ist nichts zu tun, wo `mode` des Netzes `auto` oder `proxy` ist; wo es `authoritative` ist, `mode = \"proxy\"` oder `allow_other_servers = true` setzen.",
        ),
        Code::ForeignBootServer => (
            "ein anderer Startserver antwortet in diesem Netz",
            "Einen der beiden entfernen: Maschinen starten, was der schnellere nennt.",
        ),
        Code::ServerNotTrusted => (
            "der Server kann nicht beweisen, dass er der dieses Netzes ist",
            "Die Fingerabdrücke der Meldung mit `kaltstart tls show` auf dem Server vergleichen: Nennt es den gesehenen, die Maschine neu starten; wenn nicht, antwortet jemand anders unter der Adresse des Servers. Nichts Geheimes wurde gesendet.",
        ),
        Code::NoDisk => (
            "keine brauchbare Platte",
            "Prüfen, ob der Controller eine Platte sieht und sein Treiber in der Ramdisk ist; Wechselplatten und schreibgeschützte werden nie benutzt.",
        ),
        Code::AmbiguousDisk => (
            "mehrere Platten passen, und keine Regel wählt",
            "Im Profil eine Regel für die Platte ergänzen (serial, wwn, model, Größe); die Platten stehen in der Meldung. Den Server neu starten, sie versuchen (`ks layout try KNOTEN --profile PROFIL`) und neu bestellen.",
        ),
        Code::DiskTooSmall => (
            "die Platte ist zu klein",
            "Eine größere Platte nehmen, oder ein kleineres Layout oder Image. Nach einer Änderung der Konfiguration den Server neu starten, sie versuchen (`ks layout try KNOTEN --profile PROFIL`) und neu bestellen.",
        ),
        Code::NoMatchingDisk => (
            "keine Platte passt zur Regel",
            "Die Regel des Profils berichtigen; die Platten stehen in der Meldung. Den Server neu starten, sie versuchen (`ks layout try KNOTEN --profile PROFIL`) und neu bestellen.",
        ),
        Code::DiskFailed => (
            "die Platte verweigerte eine Operation",
            "Das Log des Agenten ansehen; die Platte prüfen oder ersetzen.",
        ),
        Code::ForeignData => (
            "auf der Platte liegt, was niemand aufgegeben hat",
            "Darf alles verloren gehen, was die Meldung nennt, mit dem genannten `--erase` neu bestellen. Wenn nicht: für ein Profil mit dessen Regel eine andere Platte wählen, für eine Freigabe die Platte herausnehmen. Nichts wurde geschrieben.",
        ),
        Code::GrantRefused => (
            "die Löscherlaubnis gilt nicht für das, was da ist",
            "Die Meldung mit der Maschine vergleichen: Eine Platte wurde getauscht oder umgesteckt, etwas wurde formatiert, oder die Erlaubnis gilt einer anderen Maschine oder ist zu alt. Neu bestellen. Nichts wurde geschrieben.",
        ),
        Code::NotErased => (
            "eine Platte konnte nicht gelöscht werden",
            "Niemand bekommt den Node. Die Platte mit der Seriennummer der Meldung ausbauen und zerstören, die Maschine ohne sie mit `ks node accept` nehmen und noch einmal freigeben; oder sie noch einmal freigeben, wie sie ist, wenn der Grund vorbei ist.",
        ),
        Code::OrderOutdated => (
            "der Auftrag ist älter als die zurückgespielte Datenbank",
            "Klären, wem die Maschine jetzt dient: die zurückgespielte Kopie weiß nicht, was aus dem Auftrag wurde. Soll er noch ausgeführt werden, neu bestellen.",
        ),
        Code::OtherMachine => (
            "der Agent läuft auf einer anderen Maschine als der des Nodes",
            "Die Adressen der Meldung mit der Maschine vergleichen: eine Netzwerkkarte wurde getauscht oder wird vom Agenten nicht gesehen, oder eine andere Maschine benutzt die Adresse des Nodes. Den Node mit der Adresse anlegen, die er jetzt hat. Es wurde nichts geschrieben.",
        ),
        Code::TooManyLosses => (
            "zu viele Maschinen würden auf einmal Daten verlieren",
            "Klären, wer so viel bestellt: `ks job list` zeigt, was, `ks job show`, wer es genehmigt hat. Ist es so gewollt, warten, bis eine Stunde vorbei ist, oder `machines_per_hour` im Abschnitt `wipe` der Konfiguration erhöhen und den Server neu starten; dann neu bestellen. Es wurde nichts geschrieben.",
        ),
        Code::ClassDiffers => (
            "die Maschine ist nicht gebaut, wie ihre Klasse es sagt",
            "Die Teile in der Meldung mit der Bestellung vergleichen: neu einsetzen oder ersetzen, was fehlt oder falsch ist, nach Steckplatz und Seriennummer; der nächste Auftrag der Maschine sieht wieder nach. Soll sie so sein, ihre `[[class]]` berichtigen.",
        ),
        Code::FirmwareOld => (
            "die Firmware ist älter, als ihre Klasse es sagt",
            "Die Firmware der Maschine mit dem Werkzeug des Herstellers oder von ihrem Management-Controller aus aktualisieren; der nächste Auftrag sieht wieder nach.",
        ),
        Code::DiskCount => (
            "nicht so viele Platten, wie das Layout verlangt",
            "Die Platten in der Meldung mit der Regel des Profils und `array` des Layouts vergleichen: Genau so viele müssen zur Regel passen; eine fehlende Platte einsetzen oder ersetzen. Nichts wurde geschrieben.",
        ),
        Code::DisksUnequal => (
            "die Platten ergeben keinen Verbund",
            "Platten einer Größe und Art verwenden, und die Regel des Profils nur sie wählen lassen; von einer Platte, die auf zwei Wegen da ist, einen ausstecken. Nichts wurde geschrieben.",
        ),
        Code::CannotKeep => (
            "eine Partition, die bleiben soll, ist nicht, wie das Layout sie hat",
            "Die Meldung mit `ks layout try NODE --profile PROFILE` vergleichen: mit einem Profil bestellen, dessen Layout die Partition dort hat, wo sie liegt, oder ohne `--keep`, wenn ihre Daten verloren gehen dürfen. Nichts wurde geschrieben.",
        ),
        Code::Unfit => (
            "Image und Layout passen nicht zusammen",
            "Wie die Meldung sagt: im Profil das Image als Archiv (tar) nehmen, ein Layout mit einem ext4 für `/` oder eines mit größeren Partitionen; dann den Server neu starten und neu bestellen. Nichts wurde geschrieben.",
        ),
        Code::MemoryFaulty => (
            "der Arbeitsspeicher gibt anderes zurück, als geschrieben wurde",
            "Speichermodule ersetzen, bis ein Belastungstest besteht: jeweils die Hälfte tauschen. Hängt es an keinem davon, liegt es an der Hauptplatine oder am Prozessor.",
        ),
        Code::ProcessorFaulty => (
            "ein Prozessor rechnet falsch",
            "Die Maschine außer Betrieb nehmen: Keinem ihrer Ergebnisse ist zu trauen. Kühlung und Takteinstellungen der Firmware prüfen, dann den Prozessor der Meldung ersetzen und den Belastungstest wiederholen.",
        ),
        Code::DiskUnreadable => (
            "eine Platte ist nicht überall lesbar",
            "Sichern, was auf der Platte liegt, und sie ersetzen: Ihre Seriennummer steht in der Meldung. Werden mehrere Platten eines Controllers genannt, kann ein Kabel oder die Backplane schuld sein.",
        ),
        Code::NetworkFaulty => (
            "das Netz lieferte andere Bytes oder keine",
            "Das Kabel ersetzen und die Fehlerzähler des Switch-Ports an der Schnittstelle der Meldung ansehen; danach die Netzwerkkarte ersetzen. Den Belastungstest wiederholen.",
        ),
        Code::RestartedUnderLoad => (
            "die Maschine startete während ihres Belastungstests neu",
            "Niemand sollte sie ausgeschaltet haben: Netzteile, Kühlung und das Ereignisprotokoll ihres Management-Controllers ansehen, dann den Belastungstest wiederholen.",
        ),
        Code::PowerSupplyFaulty => (
            "ein Netzteil ist schadhaft oder ohne Eingang",
            "Das Netzteil der Meldung ansehen: sein Kabel einstecken oder es ersetzen; der nächste Auftrag der Maschine sieht wieder nach. Bis dahin läuft sie ohne Reserve.",
        ),
        Code::OnlyObserving => (
            "der Server beobachtet nur, seit eine Kopie zurückgespielt wurde",
            "Mit `ks restored` ansehen, was abweicht, und die Kopie mit `ks restored accept` hinnehmen, wie sie ist; dann bestellen. Nichts wurde geschrieben.",
        ),
        Code::DiskFailing => (
            "eine Platte sagt, dass sie ausfällt",
            "Sichern, was auf der Platte liegt, und sie ersetzen: Steckplatz und Seriennummer stehen in der Meldung. Kein Auftrag schreibt auf sie; die Regel des Profils kann eine andere wählen.",
        ),
        Code::PartMissing => (
            "ein Teil, das da war, fehlt",
            "Das Teil in der Meldung neu einsetzen oder ersetzen; der nächste Auftrag der Maschine sieht wieder nach. Wurde es mit Absicht entfernt, die Maschine mit `ks node accept` nehmen, wie sie ist.",
        ),
        Code::MemoryUneven => (
            "Speichermodule sind verschieden groß",
            "Die Module in der Meldung mit der Bestellung vergleichen: Eines ist falsch, sitzt schlecht oder ist von der Firmware zum Teil abgeschaltet.",
        ),
        Code::ImageMismatch => (
            "die Prüfsumme des Images stimmt nicht",
            "Das gespeicherte Image ist beschädigt: neu bauen oder importieren. Nichts Startbares wurde geschrieben.",
        ),
        Code::ImageTruncated => (
            "das Image endete zu früh",
            "Das gespeicherte Image ist beschädigt: neu bauen oder importieren. Nichts Startbares wurde geschrieben.",
        ),
        Code::ImageInvalid => (
            "das Image lässt sich nicht auspacken",
            "Das Image neu bauen oder importieren; die Meldung nennt den Eintrag. Nichts Startbares wurde geschrieben.",
        ),
        Code::ImageMissing => (
            "das Image ist nicht auf dem Server",
            "Das Image in das Verzeichnis des Servers für Images legen, und seinen Namen im Profil prüfen.",
        ),
        Code::ImageUntrusted => (
            "das Image ist von keinem Schlüssel dieses Standorts signiert",
            "Sein Manifest mit einem Schlüssel aus `images.keys` signieren: `minisign -S -m manifest.json`; hat es jemand anders verändert, herausfinden, wer. Keine Platte wurde berührt.",
        ),
        Code::Silent => (
            "die Maschine ist verstummt",
            "Auf ihre Konsole sehen; das Log des Auftrags enthält, was sie zuletzt sagte. `ks deploy` beginnt von vorn.",
        ),
        Code::BootloaderFailed => (
            "der Bootloader ließ sich nicht einrichten",
            "Die Meldung sagt, was fehlte; den Abschnitt boot im Manifest des Images prüfen.",
        ),
        Code::ToolFailed => (
            "ein Programm der Ramdisk ist gescheitert",
            "Das Log des Agenten ansehen; die Meldung enthält die Worte des Programms.",
        ),
        Code::TooManyAttempts => (
            "die Maschine kam zu oft für ihren Auftrag wieder",
            "Sie startet während des Auftrags neu: Konsole und Hardware ansehen, dann neu bestellen.",
        ),
        Code::ImageUnfetched => (
            "das Image lässt sich nicht holen",
            "HTTP-Port und Log des Servers prüfen; der Agent hat es bis zu seiner Grenze wiederholt.",
        ),
        Code::AgentDefect => (
            "der Agent hat einen Fehler",
            "Die Meldung mit dem Log des Auftrags melden; `ks deploy` beginnt von vorn.",
        ),
        Code::IdentityRefused => (
            "Hostname, Domain oder Schlüssel lassen sich nicht schreiben",
            "Im Node oder seinem Profil berichtigen, was die Meldung nennt. Die Platte wurde nicht berührt.",
        ),
        Code::RecallFailed => (
            "das installierte System konnte den Agenten nicht starten",
            "Die Meldung sagt, warum. Seine Platte wurde nicht angerührt: ohne `--via kexec` neu bestellen (`ks deploy`) und die Maschine über das Netz starten.",
        ),
        Code::NotReported => (
            "das installierte System hat sich nicht gemeldet",
            "Auf ihre Konsole sehen: Sie muss von ihrer eigenen Platte starten und eine Adresse bekommen.",
        ),
        Code::ReportDiffers => (
            "das installierte System ist nicht das bestellte",
            "Die Meldung mit der Bestellung vergleichen; vielleicht startete eine andere Platte oder ein älteres System.",
        ),
        Code::BootOrderChanged => (
            "etwas hat die Startreihenfolge geändert",
            "Sagt die Meldung, dass sie wiederhergestellt ist: nichts; kommt es wieder, die Aktualisierung suchen, die das tut, oder die Reihenfolge im Setup der Firmware sperren.",
        ),
        Code::KeyRefused => (
            "die Platten bleiben geschlossen: ihr Schlüssel wird nicht herausgegeben oder öffnet nichts",
            "Die Meldung sagt, warum. Wurde die Platte umgesteckt, sie in ihre Maschine zurücksetzen; hat die Maschine eine andere Hauptplatine, `ks node accept KNOTEN --board UUID`; öffnet der Schlüssel nichts, die richtige Platte einsetzen. Nichts wurde verändert.",
        ),
    }
}
